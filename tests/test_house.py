"""The architecture, read from the imports: one direction, commands on top, no circles."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("training", "probing", "analysis", "figures")
# What a package may import, itself apart. A command of analysis draws its picture as its last act.
BELOW = {
    "training": set(),
    "probing": {"training"},
    "figures": {"training"},
    "analysis": {"training", "probing"},
}
FOLDERS = {
    "training": ["base", "data", "organism", "weights", "runs", "behaviour", "loop", "grid"],
    "analysis": ["measures", "patching", "tables", "across"],
}
HEAVY = {"torch", "transformers", "accelerate", "peft", "pandas", "sklearn", "scipy", "umap"}
HEAVY |= {"matplotlib", "plotly", "nnsight", "tqdm", "joblib", "ray", "PIL"}
MOST_MODULES = 14


def modules() -> dict[str, Path]:
    """Module name -> file, of the four packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> list[tuple[str, bool]]:
    """(module, whether at the head) of everything that a module imports at run time."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    found = []
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        head = id(node) not in inside
        if isinstance(node, ast.Import):
            found += [(alias.name, head) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import hides where it points"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append((whole if whole in MODULES else node.module, head))
    return found


def own(name: str) -> list[str]:
    """The modules of the four packages that a module imports."""
    return [target for target, _ in imports(name) if target in MODULES and target != name]


def is_command(name: str) -> bool:
    last = ast.parse(MODULES[name].read_text(encoding="utf-8")).body[-1:]
    main = [node for node in last if isinstance(node, ast.If)]
    return name.count(".") == 1 and [ast.unparse(n.test) for n in main] == [
        "__name__ == '__main__'"
    ]


def floor(name: str) -> int:
    """The level of a module's folder in its package: commands stand on top."""
    package, *rest = name.split(".")
    order = FOLDERS.get(package, [])
    return order.index(rest[0]) if len(rest) > 1 else len(order)


def test_packages_import_downwards():
    upwards = [
        (name, target)
        for name in MODULES
        for target in own(name)
        if (package := name.split(".")[0]) != (other := target.split(".")[0])
        and other not in BELOW[package]
        and not (other == "figures" and package == "analysis" and is_command(name))
    ]
    assert upwards == []


def test_folders_import_downwards():
    upwards = [
        (name, target)
        for name in MODULES
        for target in own(name)
        if name.split(".")[0] == target.split(".")[0] and floor(target) > floor(name)
    ]
    assert upwards == []


def test_no_module_imports_itself_by_a_detour():
    done, path = set(), []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for target in own(name):
                visit(target)
            path.pop()
            done.add(name)

    for name in MODULES:
        visit(name)


def test_no_command_imports_another():
    # Pictures have a small main each; commands of analysis and other pictures draw them.
    draws = ("analysis.", "figures.")
    assert [
        (name, target)
        for name in MODULES
        for target in own(name)
        if is_command(target) and not (target.startswith("figures.") and name.startswith(draws))
    ] == []


def test_modules_are_imported_by_name_and_not_by_string():
    # The stages of a grid are commands that its file names.
    users = {
        name
        for name in MODULES
        for target, _ in imports(name)
        if target == "importlib" or (target.startswith("importlib.") and "metadata" not in target)
    }
    assert users <= {"training.grid.stages"}


@pytest.mark.parametrize("package", ["training", "analysis"])
def test_at_the_top_of_a_package_there_are_commands_only(package):
    top = [name for name in MODULES if name.count(".") == 1 and name.startswith(f"{package}.")]
    folders = {f"{package}.{folder}" for folder in FOLDERS[package]}
    assert [name for name in top if not is_command(name) and name not in folders] == []


def test_a_folder_has_at_most_14_modules():
    sizes = Counter(path.parent for path in MODULES.values() if path.stem != "__init__")
    assert {str(k): n for k, n in sizes.items() if n > MOST_MODULES} == {}


def test_our_own_imports_stand_at_the_head():
    inside = [
        (name, target)
        for name in MODULES
        for target, head in imports(name)
        # The mass-mean probe is a scikit-learn class: it is imported where it is fitted.
        if target in MODULES and not head and target != "analysis.measures.mass_mean"
    ]
    assert inside == []


def test_heavy_packages_are_imported_where_they_are_used():
    at_the_head = [
        (name, target)
        for name in MODULES
        for target, head in imports(name)
        if head and target.split(".")[0] in HEAVY and name != "analysis.measures.mass_mean"
    ]
    assert at_the_head == []


def test_one_module_knows_nnsight():
    users = {name for name in MODULES for target, _ in imports(name) if "nnsight" in target}
    assert users == {"probing.tracing"}


@pytest.mark.parametrize("package", [*PACKAGES, "latent_alignment"])
def test_the_front_door_opens_and_every_name_has_a_worked_example(package):
    module = __import__(package)
    assert module.__all__
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing):
            assert thing.__doc__, name
            is_error = isinstance(thing, type) and issubclass(thing, Exception)
            assert is_error or ">>>" in thing.__doc__, f"{name} has no worked example"


@pytest.mark.parametrize("line", ["from analysis import linear_cka", "import latent_alignment"])
def test_the_front_door_is_light(line):
    heavy = ("torch", "pandas", "sklearn")
    code = f"import sys; {line}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_bad_arguments_are_value_errors():
    import numpy as np

    import analysis

    with pytest.raises(ValueError, match="rows"):
        analysis.linear_cka(np.ones((3, 2)), np.ones((3, 2)))
