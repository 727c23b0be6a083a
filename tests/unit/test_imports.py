"""Dependencies point one way: entry → actor → platform → domain; the domain touches nothing; files stay rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGINS = REPOSITORY / "plugins"
PACKAGE = PLUGINS / "usmed"
FILES = sorted(PLUGINS.rglob("*.py"))
ACTORS = sorted(one.name for one in PACKAGE.iterdir() if one.is_dir() and one.name not in ("domain", "platform"))

PURE = {
    "base64", "binascii", "collections", "copy", "dataclasses", "datetime", "enum", "functools", "hashlib",
    "importlib", "itertools", "json", "math", "re", "struct", "types", "typing", "unicodedata", "urllib",
    "Cryptodome", "cryptography", "email", "fido2", "hl7", "joserfc", "jsonschema", "phonenumbers", "rfc8785", "stdnum",
    "xml",
}  # fmt: skip
"""What the domain may use. No I/O, clock, threads or randomness among them, but for what IMPURE names."""

IMPURE = {
    ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("urllib", "request"),
    ("OKPKey", "generate_key"), ("Shamir", "split"),
}  # fmt: skip
"""Names in those modules that read the clock, the network or the randomness of the machine."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PLUGINS).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where an arrow points"
            assert node.module is not None
            # `from usmed import domain` imports usmed.domain.
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "__import__", "import_module", "exec", "eval",
        ):  # fmt: skip
            raise AssertionError(f"{path}:{node.lineno}: an import that nobody can see")


def layer(module: str) -> str:
    """Return domain, platform, an actor's name, or "entry"."""
    parts = module.split(".")
    return parts[1] if parts[0] == "usmed" and len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else "entry"


def ours(path: Path) -> set[str]:
    return {one for one in imports(path) if one == "usmed" or one.startswith("usmed.")}


def test_there_is_something_to_look_at() -> None:
    assert {"hospital", "hub"} <= set(ACTORS)
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_arrows(path: Path) -> None:
    here = layer(module_of(path))
    allowed = {"domain": {"domain"}, "platform": {"platform", "domain"}}.get(here, {here, "platform", "domain"})
    if here == "entry":
        # The command joins the actors' commands; an entry file of Orthanc's starts one actor.
        allowed = {*ACTORS, "platform", "domain"}
    reached = {layer(one) for one in ours(path) if one != "usmed" and one != "usmed.__version__"}
    assert reached - {"entry"} <= allowed
    # Nothing imports what stands above it.
    if here != "entry":
        assert {one for one in ours(path) if layer(one) == "entry"} <= {"usmed", "usmed.__version__"}


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("*.py")), ids=module_of)
def test_an_entry_file_imports_one_actor_and_starts_it(path: Path) -> None:
    actors = {layer(one) for one in ours(path)}
    assert len(actors) == 1
    assert actors <= set(ACTORS)
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    assert functions == [], "import, wire, start; nothing else"


@pytest.mark.parametrize("path", sorted((PACKAGE / "domain").rglob("*.py")), ids=module_of)
def test_the_domain_is_pure(path: Path) -> None:
    used = {one.partition(".")[0] for one in imports(path)} - {"usmed"}
    assert used <= PURE
    tree = ast.parse(path.read_text("utf-8"))
    called = {
        (getattr(node.value, "id", getattr(node.value, "attr", "")), node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
    }
    assert called & IMPURE == set()
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names & {"open", "input", "print", "exec", "eval", "globals"} == set()


@pytest.mark.parametrize("path", [one for one in FILES if "orthanc_host" not in one.parts], ids=module_of)
def test_only_the_orthanc_host_imports_orthanc(path: Path) -> None:
    assert "orthanc" not in {one.partition(".")[0] for one in imports(path)}


def test_nothing_imports_the_orthanc_host_but_its_entry() -> None:
    importers = {
        module_of(path)
        for path in FILES
        if any(one.startswith("usmed.hospital.orthanc_host") for one in ours(path)) and "orthanc_host" not in path.parts
    }
    assert importers == {"hospital"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os, usmed.hub", {"os", "usmed.hub"}),
        ("def f():\n    from usmed import hub", {"usmed", "usmed.hub"}),
        ("if x:\n    import orthanc as o", {"orthanc"}),
    ],
)
def test_the_walk_finds_imports_wherever_they_stand(text: str, expected: set[str], tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(text)
    assert set(imports(file)) == expected
    file.write_text("__import__('usmed.hub')")
    with pytest.raises(AssertionError, match="nobody can see"):
        list(imports(file))


SOURCES = sorted(
    path
    for folder in ("plugins", "scripts", "docker", ".ci")
    for path in (REPOSITORY / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts and path.suffix in (".py", ".sh", ".js", "")
)


def test_every_file_is_a_room() -> None:
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length >= 500} == {}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_file_says_what_lives_there(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))
