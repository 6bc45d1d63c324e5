"""The project's own rules: locks, docstrings, sizes of files, and documents that agree with the code."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
LINES_MAX = 400


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def targets() -> set[str]:
    """The targets that `make help` lists."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.split()[1] for line in done.stdout.splitlines()}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("lock", LOCKS, ids=relative)
def test_a_lock_names_no_host_and_no_folder(lock: Path) -> None:
    named = [
        line
        for line in lock.read_text().splitlines()
        if "://" in line or re.search(r"(^|[ =])(/|~|\.\.)|^-|@ |file:", line.removesuffix("\\"))
    ]
    assert named == []


@pytest.mark.parametrize("lock", LOCKS, ids=relative)
def test_every_requirement_in_a_lock_has_an_exact_version_and_hashes(lock: Path) -> None:
    requirements = re.findall(r"^\S.*(?:\n[ ].*)*", lock.read_text(), re.MULTILINE)
    assert requirements
    assert [item for item in requirements if not re.match(r"\S+==\S+", item) or "--hash=" not in item] == []


def test_users_get_the_versions_that_are_tested() -> None:
    def versions(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    assert versions("users.txt") - versions("development.txt") == set()


def test_every_module_opens_with_what_it_is() -> None:
    silent = [
        relative(path)
        for path in modules("opengallery", "tests", "scripts", "bench")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_file_of_the_package_is_too_long_to_read() -> None:
    lines = {relative(path): len(path.read_text().splitlines()) for path in modules("opengallery")}
    assert {path: count for path, count in lines.items() if count > LINES_MAX} == {}


def test_the_make_commands_in_the_documents_exist() -> None:
    named = {
        (relative(path), target)
        for path in DOCUMENTS
        for target in re.findall(r"(?:^|`)make ([a-z]+)\b", path.read_text(), re.MULTILINE)
    }
    assert {target for _, target in named} >= {"demo", "test", "check", "setup"}
    assert {(path, target) for path, target in named if target not in targets()} == set()


def test_links_between_the_documents_lead_somewhere() -> None:
    links = [
        (relative(path), link, path.parent / link.split("#")[0])
        for path in DOCUMENTS
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text())
        if "://" not in link and not link.startswith("#")
    ]
    assert links
    assert [(path, link) for path, link, target in links if not target.exists()] == []


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    documents = [path for path in (ROOT / "docs").rglob("*.md") if path.name != "README.md"]
    assert [relative(path) for path in documents if f"({path.relative_to(ROOT / 'docs')})" not in index] == []


def test_the_picture_of_the_floors_is_what_import_linter_checks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = [layer.replace("opengallery.", "").split(" | ") for layer in layers]
    picture = re.search(r"```text\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    assert picture
    rows = re.findall(r"^\| +([a-z_, ]+?)  ", picture.group(1), re.MULTILINE)
    assert [sorted(row.split(", ")) for row in rows] == [sorted(floor) for floor in floors]
