"""Room card: settings: bounds, names, secrets, and who wins: the caller, the environment, the profile, the default.

Knows `s3dlio.options` and, for the order of precedence, the S3 store that asks botocore for the profile.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from s3dlio import OptionError, StoreOptions, get
from s3dlio.options import ACCEPTED, ENVIRONMENT, read_environment, resolve
from s3dlio.stores import open_store
from s3dlio.stores.s3 import S3Store

_README = Path(__file__).parents[1] / "README.md"
_ROW = re.compile(r"^\| *`([A-Z0-9_]+)` *\|", re.MULTILINE)
_KEY = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="
_VALUES = {
    "str": ("some text", "some text"),
    "read_url": ("http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
    "read_emulator": ("127.0.0.1:9000", "http://127.0.0.1:9000"),
    "read_flag": ("Yes", True),
    "read_count": ("12", 12),
    "read_part_size": ("8388608", 8_388_608),
    "read_base64": (_KEY, _KEY),
    "_style": ("container", "container"),
    "_payer": ("requester", True),
}
_PROFILE = """
[profile work]
region = from-profile
endpoint_url = http://profile.test:1
s3 =
    addressing_style = virtual
"""


# -- the options themselves -----------------------------------------------------------------------------


def test_every_option_is_documented_in_order() -> None:
    documented = re.findall(r"^ {4}(\w+): ", inspect.getdoc(StoreOptions).partition("Attributes:")[2], re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(StoreOptions)]


def test_a_misspelt_option_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(OptionError, match="no option 'chunksize'; did you mean 'chunk_size'"):
        StoreOptions(chunksize=1)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="no option 'acount'; did you mean 'account'"):
        StoreOptions().replace(acount="x")
    with pytest.raises(TypeError):
        StoreOptions(wrong=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"chunk_size": 65_535}, "chunk_size must be at least 65536, not 65535"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_concurrent_ranges": 0}, "max_concurrent_ranges"),
        ({"connect_timeout_s": 0}, "connect_timeout_s"),
        ({"read_timeout_s": -1}, "read_timeout_s"),
        ({"range_timeout_s": 0}, "range_timeout_s"),
        ({"retry_base_s": -0.1}, "retry_base_s"),
        ({"min_split_size": -1}, "min_split_size"),
        ({"addressing_style": "pth"}, "addressing_style must be one of auto, path, virtual.*did you mean 'path'"),
        ({"azure_uri_style": "accounts"}, "azure_uri_style.*did you mean 'account'"),
        ({"endpoint_url": "localhost:9000"}, "endpoint_url must start with http"),
        ({"endpoint_url": "ftp://x"}, "endpoint_url must start with http"),
        ({"endpoint_url": "http://"}, "endpoint_url must be http"),
        ({"endpoint_url": "http://x:99999"}, "endpoint_url must be http"),
        ({"endpoint_url": "http://x:port"}, "endpoint_url must be http"),
        ({"access_key_id": "x"}, "belong together"),
        ({"secret_access_key": "x"}, "belong together"),
        ({"requester_pays": True, "anonymous": True}, "requester_pays needs signed requests"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        StoreOptions(**options)
    with pytest.raises(OptionError, match=named):
        StoreOptions().replace(**options)


def test_the_smallest_values_are_allowed() -> None:
    options = StoreOptions(chunk_size=65_536, max_attempts=1, min_split_size=0, retry_base_s=0, retry_max_s=0)
    assert options.replace(max_attempts=2).max_attempts == 2
    assert options.max_attempts == 1


def test_secrets_are_not_shown() -> None:
    names = ("access_key_id", "secret_access_key", "session_token", "account_key", "sas_token", "bearer_token")
    options = StoreOptions(**dict.fromkeys(names, "TOP-SECRET"))
    assert "TOP-SECRET" not in repr(options)
    assert "TOP-SECRET" not in str(options)
    assert "region=None" in repr(options)


def test_options_are_values() -> None:
    assert StoreOptions(region="x") == StoreOptions(region="x") != StoreOptions(region="y")
    assert len({StoreOptions(region="x"), StoreOptions(region="x"), StoreOptions()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        StoreOptions().region = "x"  # type: ignore[misc]


# -- the environment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ENVIRONMENT, ids=lambda variable: variable.name)
def test_every_variable_sets_its_option(variable: Any) -> None:
    text, value = _VALUES[variable.parse.__name__]
    family, _, option = variable.option.rpartition(".")
    assert read_environment({variable.name: text}) == {option: value}
    assert read_environment({variable.name: text}, "other") == ({} if family else {option: value})
    assert getattr(StoreOptions.from_env({variable.name: text}), option) == value
    assert StoreOptions.from_env({variable.name: ""}) == StoreOptions()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000", "must start with http"),
        ("AWS_ENDPOINT_URL_S3", "http://", "must be http"),
        ("AZURE_STORAGE_ENDPOINT", "http://x:y", "must be http"),
        ("STORAGE_EMULATOR_HOST", "ftp://x", "must start with http"),
        ("AWS_SKIP_SIGNATURE", "maybe", "must be true or false"),
        ("S3DLIO_AZURE_URI_STYLE", "acount", "did you mean 'account'"),
        ("S3DLIO_MAX_HTTP_CONNECTIONS", "many", "must be a whole number"),
        ("S3DLIO_MAX_HTTP_CONNECTIONS", "-3", "must be at least 1"),
        ("S3DLIO_RANGE_CONCURRENCY", "0", "must be at least 1"),
        ("S3DLIO_RT_THREADS", "1.5", "must be a whole number"),
        ("S3DLIO_USE_OPTIMIZED_HTTP", "2", "must be true or false"),
        ("S3DLIO_PUT_PART_SIZE", "5242879", "must be at least 5242880"),
        ("S3DLIO_PUT_PART_SIZE", "8MiB", "must be a whole number"),
        ("S3DLIO_OPLOG_LEVEL", "3", "must be 0, 1 or 2"),
    ],
)
def test_a_malformed_value_names_its_variable(name: str, value: str, reason: str) -> None:
    with pytest.raises(OptionError, match=f"{name}='{re.escape(value)}': .*{reason}"):
        StoreOptions.from_env({name: value})


@pytest.mark.parametrize("name", ["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"])
def test_a_malformed_secret_names_its_variable_and_not_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "not!base64")
    with pytest.raises(OptionError, match=f"{name}: must be base64") as caught:
        get("az://account/container/key")
    assert "not!base64" not in str(caught.value)


def test_the_later_of_two_variables_wins() -> None:
    both = {"AWS_REGION": "new", "AWS_DEFAULT_REGION": "old", "AWS_ENDPOINT_URL": "http://a", "UNRELATED": "x"}
    assert read_environment(both) == {"region": "new", "endpoint_url": "http://a"}
    both["AWS_ENDPOINT_URL_S3"] = "http://b"
    assert read_environment(both)["endpoint_url"] == "http://b"


def test_a_provider_does_not_trip_over_anothers_variables() -> None:
    assert resolve(StoreOptions(), "s3", {"AZURE_STORAGE_ENDPOINT": "nonsense"}) == StoreOptions()
    with pytest.raises(OptionError, match="AZURE_STORAGE_ENDPOINT"):
        resolve(StoreOptions(), "az", {"AZURE_STORAGE_ENDPOINT": "nonsense"})


def test_the_table_of_the_readme_is_the_table_of_the_code() -> None:
    documented = _ROW.findall(_README.read_text())
    assert sorted(documented) == sorted(variable.name for variable in (*ENVIRONMENT, *ACCEPTED))


# -- who wins -------------------------------------------------------------------------------------------


def test_the_caller_wins_over_the_environment_over_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(_PROFILE)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert _site() == ("us-east-1", "b.s3.us-east-1.amazonaws.com", "")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert _site() == ("from-profile", "b.profile.test:1", "")
    monkeypatch.setenv("AWS_REGION", "from-env")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://env.test:2/base")
    assert _site() == ("from-env", "b.env.test:2", "/base")
    mine = StoreOptions(region="mine", endpoint_url="http://mine.test:3", addressing_style="path")
    assert _site(mine) == ("mine", "mine.test:3", "/b")
    monkeypatch.delenv("AWS_PROFILE")
    assert _site(StoreOptions(profile="work")) == ("from-env", "b.env.test:2", "/base")


def test_a_custom_endpoint_or_a_dot_means_path_style(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _site(bucket="a.b") == ("us-east-1", "s3.us-east-1.amazonaws.com", "/a.b")
    assert _site(StoreOptions(addressing_style="virtual"), "a.b")[1] == "a.b.s3.us-east-1.amazonaws.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.test")
    assert _site() == ("us-east-1", "minio.test", "/b")


def test_the_environment_is_read_when_a_store_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store("s3://b")
    assert open_store("s3://other") is first
    monkeypatch.setenv("AWS_REGION", "elsewhere")
    assert open_store("s3://b").options.region == "elsewhere"
    assert first.options.region is None
    monkeypatch.delenv("AWS_REGION")
    assert open_store("s3://b") is first


def test_another_identity_is_another_store(monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store("s3://b")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-else")
    assert open_store("s3://b") is not first


def _site(options: StoreOptions | None = None, bucket: str = "b") -> tuple[str, str, str]:
    store = open_store(f"s3://{bucket}", options)
    assert isinstance(store, S3Store)
    site = store._site(bucket)
    return site.region, site.host, site.path
