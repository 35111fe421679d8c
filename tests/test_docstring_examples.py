"""Room card: the examples in docstrings run as printed, and give what they say.

All in one process of their own, as they import every framework but TensorFlow. Those that need a server are marked
`+SKIP`; the same calls are made in the tests of what they belong to. Knows no example.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.patience import PROGRAM_S

_ROOT = Path(__file__).parents[1]
_PROGRAM = """
import doctest, importlib, json, sys

finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False, optionflags=doctest.FAIL_FAST)
ran = {}
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for test in finder.find(module):
        if test.examples:
            said = []
            failed, attempted = runner.run(test, out=said.append)
            ran[test.name] = [attempted, "".join(said)]
print(json.dumps(ran))
"""


def test_the_examples_in_docstrings_give_what_they_say() -> None:
    sources = {path: path.read_text() for path in (_ROOT / "s3dlio").rglob("*.py")}
    shown = {path: text for path, text in sources.items() if ">>> " in text}
    modules = [".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in sorted(shown)]
    # TensorFlow's examples all need a server, and importing it takes seconds.
    command = [sys.executable, "-c", _PROGRAM, *(name for name in modules if not name.startswith("s3dlio.tf."))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ran = json.loads(done.stdout.splitlines()[-1])
    failures = [said for _, said in ran.values() if said]
    assert not failures, "\n".join(failures)
    # None is missed: each docstring that shows an example was found, and most of them need no server.
    blocks = sum(
        len(re.findall(r"\n *(?:Example|Examples):\n", text)) for path, text in shown.items() if "/tf/" not in str(path)
    )
    assert len(ran) >= blocks > 0
    assert sum(attempted > 0 for attempted, _ in ran.values()) > len(ran) // 2
