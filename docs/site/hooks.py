"""What MkDocs does to a page before it reads it: names of the API, and blocks that are not run."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *```\w+) no-run$", re.MULTILINE)
NAMES = re.compile(r"^<!-- public names of (\S+) -->$", re.MULTILINE)


def on_page_markdown(markdown, **_):
    """Called by MkDocs with the text of each page."""
    markdown = FENCE.sub(r"\1", markdown)
    return NAMES.sub(lambda found: section(found[1]), markdown)


def section(module):
    """What stands in the place of `<!-- public names of MODULE -->`."""
    text = ast.get_docstring(tree_of(module))
    return "\n\n".join([text, *(f"::: {place}" for place in places(module).values())])


def places(module):
    """`{public name: where it is defined}`, in the order of `__all__`, without an import."""
    tree, found, public = tree_of(module), {}, None
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = f"{module}.{node.name}"
        elif isinstance(node, ast.Assign) and node.targets[0].id == "_PLACES":
            lazy = ast.literal_eval(node.value)
            found |= {name: f"{module}.{place}.{name}" for name, place in lazy.items()}
        elif isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            plain = all(isinstance(each, ast.Constant) for each in node.value.elts)
            public = ast.literal_eval(node.value) if plain else list(lazy)
    return {name: found[name] for name in public}


def tree_of(module):
    """The syntax of a module of this repository."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))
