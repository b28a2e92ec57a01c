"""The template's source: a working project, with Jinja kept out of its Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import Environment, StrictUndefined, meta

from tests.conftest import Render, manifest, strings
from tests.owner import is_yours
from tests.test_variants import PYTEST
from tests.variants import CONFIG, DOMAINS, QUESTIONS, ROOT, TEXTS
from tools.siblings import SIBLINGS

TEMPLATE = ROOT / "template"
JINJA = Environment(
    extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
    **{**CONFIG["_envops"], "undefined": StrictUndefined},
)
SOURCES = [*sorted(TEMPLATE.rglob("*.jinja")), *sorted((ROOT / "includes").rglob("*"))]
SOURCES = [path for path in SOURCES if path.is_file()]
COPIERS = {"_copier_answers", "_copier_conf", "_copier_operation"}
RECORDED = {"had_example"}  # in the answers file beside the answers
# Each renders differently in Copier's temporary copies, so each update would conflict.
FORBIDDEN = re.compile(r"_folder_name|src_path|strftime|ans_random|vcs_ref|\bnow\(")
LONGEST_MODULE = 250


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def used(text: str) -> set[str]:
    return meta.find_undeclared_variables(JINJA.parse(text))


@pytest.mark.parametrize("where", ["", "template"], ids=["own", "template"])
@pytest.mark.parametrize(
    "command",
    [("ruff", "format", "--check"), ("ruff", "check"), ("mypy", "--strict")],
    ids=" ".join,
)
def test_source_is_clean(where: str, command: tuple[str, ...]) -> None:
    folder = ROOT / where
    if where:
        run(*command, ".", cwd=folder)
    else:
        run(*command, "tests", "tools", "benchmarks", "chaos", cwd=folder)


def test_the_default_suite_runs_where_the_source_stands(render: Render) -> None:
    """All of it is found; run is what owners have, for the rest is as in a rendering."""
    # The tests of the backends that are not the default's are left out, as in a rendering.
    every = {path.relative_to(TEMPLATE) for path in TEMPLATE.glob("tests/**/test_*.py")}
    others = sorted(path for path in every if not (render() / path).exists())
    run(*PYTEST, "--collect-only", *(f"--ignore={path}" for path in others), cwd=TEMPLATE)
    run(*PYTEST, "--ignore=tests/core", "--ignore=tests/faults", "tests", cwd=TEMPLATE)


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_plain_file_beside_a_jinja_is_its_default_rendering(name: str, render: Render) -> None:
    expected = (render() / name).read_text(encoding="utf-8")
    assert (TEMPLATE / name).read_text(encoding="utf-8") == expected, "run `make siblings`"


def test_python_holds_no_jinja_but_in_the_wiring() -> None:
    rendered = {str(path.relative_to(TEMPLATE)) for path in TEMPLATE.rglob("*.py.jinja")}
    assert rendered == {"app/core/wiring.py.jinja", "app/settings.py.jinja"}
    # The settings are one of two plain files, picked whole.
    (line,) = (TEMPLATE / "app/settings.py.jinja").read_text().splitlines()
    assert line.startswith("{% include ")
    for path in TEMPLATE.rglob("*.py"):
        assert not re.search(r"\{%|\{\{|\{#", path.read_text(encoding="utf-8")), path


def test_there_is_little_jinja() -> None:
    """In all that is rendered, and all that is put into it."""
    rendered = [*TEMPLATE.rglob("*"), *(ROOT / "includes").rglob("*")]
    files = [path for path in rendered if path.is_file() and is_text(path)]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    statements = sum("{%" in line for line in lines)
    assert 100 * statements / len(lines) <= 1.2, f"{statements} of {len(lines)} lines"


def is_text(path: Path) -> bool:
    generated = {"__pycache__", ".mypy_cache", ".ruff_cache", ".hypothesis", ".pytest_cache"}
    return path.suffix not in (".db", ".json") and not generated & set(path.parts)


def test_no_module_holds_a_second_room() -> None:
    long = {
        str(path.relative_to(TEMPLATE)): count
        for path in (TEMPLATE / "app").rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_MODULE
    }
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_is_a_question(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert used(text) - COPIERS - RECORDED <= set(QUESTIONS)
    if path.parent.name != "includes":
        assert not FORBIDDEN.search(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_block_tag_does_not_swallow_the_end_of_its_line(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        glues = re.search(r"\S.*[%#]\}\s*$", line) and not re.match(r"\s*\{[%#]", line)
        assert not glues, f"{path}:{number}"


def test_every_question_is_used() -> None:
    names = set().union(*(used(path.read_text(encoding="utf-8")) for path in SOURCES))
    for key in ("_exclude", "_message_after_copy", "_message_after_update"):
        for text in strings(CONFIG[key]):
            assert used(text) - COPIERS - RECORDED <= set(QUESTIONS)
            names |= used(text)
    for question in QUESTIONS.values():
        for key in ("ask", "default", "validator", "choices"):
            for text in strings(question.get(key, "")):
                names |= used(text) if "{" in text else set()
    assert set(QUESTIONS) <= names


def test_the_files_that_an_update_leaves_alone_are_the_owners(render: Render) -> None:
    """Twice in copier.yml: not written over, and, where they were deleted, not written again."""
    patterns = CONFIG["_exclude"][-1]
    excluded = patterns.rpartition('{% if _copier_operation == "update" %}')[2].split()[:-3]
    # A broker comes with a switch to the executor that needs it.
    assert sorted([*excluded, "/app/broker.py"]) == sorted(CONFIG["_skip_if_exists"])
    folder = render(example=False)
    found = [f"/{name}" for name in manifest(folder) if is_yours(name)]
    assert sorted([*found, "/app/__init__.py"]) == sorted(excluded)


def test_a_name_that_is_no_question_fails_the_rendering() -> None:
    """Else it would render as nothing."""
    assert CONFIG["_envops"]["undefined"] == "jinja2.StrictUndefined"


def test_nothing_needs_trust() -> None:
    assert not {"_tasks", "_migrations", "_jinja_extensions", "_external_data"} & set(CONFIG)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_newcomer_understands_a_question(name: str) -> None:
    question = QUESTIONS[name]
    assert question["help"].endswith(("?", ".")), "a sentence"
    assert "default" in question, "without a default an update with --defaults fails"
    if name in TEXTS:
        assert "validator" in question


def test_three_questions_at_most_are_asked_of_a_newcomer() -> None:
    asked = [name for name, question in QUESTIONS.items() if "ask" not in question]
    assert len(asked) <= 3
    assert DOMAINS["profile"][0] == QUESTIONS["profile"]["default"]


def test_nothing_speaks_of_this_machine_or_of_its_making() -> None:
    for path in [*TEMPLATE.rglob("*"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        if path.is_file() and is_text(path):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"/root/|/home/|/Users/", text), path


def test_the_documents_name_what_there_is() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (TEMPLATE / "tests").rglob("*.py")]
    defined = {name for text in texts for name in re.findall(r"def (test_\w+)", text)}
    defined |= {path.stem for path in (TEMPLATE / "tests").rglob("test_*.py")}
    defined |= {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    for document in (ROOT / "docs").glob("*.md"):
        named = set(re.findall(r"\b(test_\w+)", document.read_text(encoding="utf-8")))
        assert named <= defined | {"test_"}, document


def test_the_table_of_the_guide_names_what_there_is() -> None:
    """Each file and each name that it says something is kept in."""
    sources = [path for path in TEMPLATE.rglob("*") if path.is_file() and is_text(path)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    words = {*re.findall(r"\w+", text), *QUESTIONS}
    roots = (TEMPLATE, TEMPLATE / "app/core")
    for line in (ROOT / "docs/from-the-guide.md").read_text(encoding="utf-8").splitlines():
        _, _, here, *_ = line.split("|") if line.startswith("|") else ("", "", line)
        for code in re.findall(r"`([^`]+)`", here):
            if re.fullmatch(r"[\w.]+(/[\w.]*)+|\w+\.py", code):
                assert any((root / code).exists() for root in roots), f"{code}, in: {line}"
            else:
                unknown = set(re.findall(r"[A-Za-z_]\w+(?!\w*\*)", code)) - words
                assert not unknown, f"{unknown}, in: {line}"
