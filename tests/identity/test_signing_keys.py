"""The keys of tokens: a new one signs, the old ones verify for as long as their tokens live, nobody is signed out."""

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opengallery.identity import keys
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.keys import FILE, VERIFIES_ON_S, SigningKeys, read_keys, rotate, tend
from opengallery.identity.tokens import CLOCK_SKEW_S, LIFETIME_S, InvalidToken, Tokens

from .conftest import ENDPOINT, Clock, Identity
from .test_tokens import _administrator

ROTATE = """
import sys
from pathlib import Path
from opengallery.identity.folder import IdentityFolder
from opengallery.identity import keys
keys.KEY_SIZE_BITS = 512 * 3
print("begun", flush=True)
while True:
    keys.rotate(IdentityFolder(Path(sys.argv[1])))
"""


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """SQLite: keys know nothing of databases."""
    return "sqlite"


@pytest.fixture(autouse=True)
def looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at whenever a key is asked for: no test waits."""
    monkeypatch.setattr(keys, "LOOK_S", 0.0)


def rotated(identity: Identity, **options: bool) -> str:
    return rotate(IdentityFolder(identity.data), clock=identity.clock, **options)


def running(identity: Identity) -> Tokens:
    """The tokens of a server that runs, with the test's clock for its keys, too."""
    folder = IdentityFolder(identity.data)
    return Tokens(identity.database, SigningKeys.open(folder, identity.clock), ENDPOINT, identity.clock)


def test_a_new_key_signs_at_once_and_nobody_is_signed_out(identity: Identity) -> None:
    tokens = running(identity)
    before = tokens.issue(_administrator(identity), ENDPOINT).text
    first = read_keys(IdentityFolder(identity.data))[0].key.kid
    kid = rotated(identity)
    after = tokens.issue(_administrator(identity), ENDPOINT).text
    assert json.loads(_header(after))["kid"] == kid
    assert tokens.validate(before) == tokens.validate(after) == _administrator(identity)
    listed = [entry["kid"] for entry in SigningKeys.open(IdentityFolder(identity.data)).public()]
    assert listed == [kid, first]


def _header(token: str) -> bytes:
    part = token.split(".")[0]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_a_token_of_another_process_s_new_key_is_taken_at_once(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "LOOK_S", 3600.0)
    tokens = running(identity)
    tokens.validate(tokens.issue(_administrator(identity), ENDPOINT).text)
    rotated(identity)
    other = running(identity)
    tokens.validate(other.issue(_administrator(identity), ENDPOINT).text)


def test_an_old_key_verifies_until_its_last_token_has_ended_and_then_goes(identity: Identity) -> None:
    assert VERIFIES_ON_S >= LIFETIME_S + 2 * CLOCK_SKEW_S
    tokens = running(identity)
    old = tokens.issue(_administrator(identity), ENDPOINT).text
    kid = rotated(identity)
    identity.clock.time_s += LIFETIME_S
    assert tokens.validate(old)
    identity.clock.time_s += VERIFIES_ON_S
    folder = IdentityFolder(identity.data)
    assert [entry["kid"] for entry in SigningKeys(folder, identity.clock).public()] == [kid]
    assert len(read_keys(folder)) == 2
    assert tend(folder, 0, identity.clock) is None
    assert [entry.key.kid for entry in read_keys(folder)] == [kid]


def test_a_key_that_is_over_verifies_nothing_even_while_it_is_in_the_file(identity: Identity) -> None:
    folder = IdentityFolder(identity.data)
    old = SigningKeys.open(folder, identity.clock).current[0]
    rotated(identity)
    later = Clock()
    later.time_s = identity.clock.time_s + VERIFIES_ON_S
    assert SigningKeys(folder, later).find(old) is None


def test_a_key_that_others_know_is_forgotten_with_all_its_tokens(identity: Identity) -> None:
    tokens = running(identity)
    stolen = tokens.issue(_administrator(identity), ENDPOINT).text
    assert tokens.validate(stolen)
    rotated(identity, forgets_old=True)
    with pytest.raises(InvalidToken, match="kid"):
        tokens.validate(stolen)
    assert tokens.validate(tokens.issue(_administrator(identity), ENDPOINT).text)


def test_a_key_is_replaced_by_itself_when_it_is_old(identity: Identity) -> None:
    folder = IdentityFolder(identity.data)
    rotated(identity)
    age_s = 90 * 24 * 3600
    assert tend(folder, age_s, identity.clock) is None
    identity.clock.time_s += age_s
    made = tend(folder, age_s, identity.clock)
    assert made == SigningKeys(folder, identity.clock).current[0]
    assert tend(folder, age_s, identity.clock) is None
    identity.clock.time_s += 10 * age_s
    assert tend(folder, 0, identity.clock) is None
    assert SigningKeys(folder, identity.clock).current[0] == made


def test_a_file_from_before_rotation_is_read(identity: Identity) -> None:
    folder = IdentityFolder(identity.data)
    content = json.loads(folder.read(FILE) or b"")
    for entry in content["keys"]:
        del entry["created"]
    folder.write(FILE, json.dumps(content).encode())
    assert abs(read_keys(folder)[0].created - time.time()) < 60
    rotate(folder)
    assert len(SigningKeys(folder).public()) == 2


def test_what_is_public_has_no_private_part(identity: Identity) -> None:
    rotated(identity)
    for entry in SigningKeys(IdentityFolder(identity.data), identity.clock).public():
        assert entry.keys() == {"kty", "n", "e", "kid", "use", "alg"}


def test_a_broken_file_changes_nothing_for_a_server_that_runs(identity: Identity) -> None:
    tokens = running(identity)
    token = tokens.issue(_administrator(identity), ENDPOINT).text
    folder = IdentityFolder(identity.data)
    good = folder.read(FILE) or b""
    for broken in (b"", b"{", b'{"keys": [{}]}', b'{"keys": 7}'):
        folder.write(FILE, broken)
        assert tokens.validate(token)
    folder.write(FILE, good)
    kid = rotated(identity)
    assert tokens.validate(token)
    assert json.loads(_header(tokens.issue(_administrator(identity), ENDPOINT).text))["kid"] == kid


def test_a_rotation_that_is_killed_leaves_a_whole_file(identity: Identity, tmp_path: Path) -> None:
    folder = IdentityFolder(identity.data)
    tokens = Tokens(identity.database, SigningKeys.open(folder), ENDPOINT, identity.clock)
    first = tokens.issue(_administrator(identity), ENDPOINT).text
    for number in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", ROTATE, str(identity.data)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout and process.stdout.readline() == "begun\n"
        before = folder.read(FILE)
        while number == 0 and folder.read(FILE) == before:
            time.sleep(0.01)
        time.sleep(random.random() * 0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert read_keys(folder)
        assert tokens.validate(first)
    rotate(folder)
    assert [path.name for path in folder.path.iterdir() if path.name.startswith(f".{FILE}")] == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.path.glob("token*"))
