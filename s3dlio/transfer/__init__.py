"""Objects carried from one place to another: which (finding), where to (plan), how one goes (carry), all (haul)."""
