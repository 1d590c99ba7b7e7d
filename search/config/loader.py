"""The configuration of a search: a packaged YAML or a file, flags over it; checked before use."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader

from pruning.errors import UserError
from search.config.parser import Parser, leaf_types, walk
from search.config.schema import (
    Config,
    DataConfig,
    ModelConfig,
    RecipeConfig,
    ResourceConfig,
    SearchConfig,
)
from search.config.validation import is_local, method_names, validate

__all__ = [
    "Config",
    "DataConfig",
    "ModelConfig",
    "RecipeConfig",
    "ResourceConfig",
    "SearchConfig",
    "absolute",
    "changed_keys",
    "from_dict",
    "load",
    "method_names",
    "packaged",
    "parse",
    "to_dict",
    "validate",
]

CONFIGS = Path(__file__).parent / "configs"
DEFAULT = "digits"
NEUTRAL = ""  # no file: the defaults of `Config`, where the network or the images are the user's
OWN = ("task", "model.name", "data.name", "data.root")  # flags that say so


def load(argv: Sequence[str] = (), prog: str = "slimfront search") -> Config:
    """Configuration of a command line, [CONFIG] and flags in any order; checked.

    CONFIG is a packaged name or a YAML or JSON file. Local paths become absolute, since trials run
    in another folder. Raises UserError.
    """
    config = absolute(parse(argv, prog)[1])
    validate(config)
    return config


def parse(argv: Sequence[str] = (), prog: str = "slimfront search") -> tuple[str, Config]:
    """CONFIG and the configuration that a command line means; nothing outside it is looked at.

    Without CONFIG it is the digits demo's, or NEUTRAL where flags name another network or images:
    the demo's recipe is for the demo.
    """
    sources, flags = _split(argv)
    if len(sources) > 1:
        raise UserError(
            f"unexpected argument {sources[1]!r}; write one CONFIG, and options as --key value"
        )
    source = sources[0] if sources else NEUTRAL if _own(flags) else DEFAULT
    return source, _config(make_parser(source, prog).read(flags))


def make_parser(source: str, prog: str) -> Parser:
    """Parser of a search's flags. Its defaults are those of `source`: help shows what would run."""
    tree = read(source) if source else {}
    parser = Parser(
        prog=prog,
        usage=f"{prog} [CONFIG] [--out RUN] [--trials N] [--key.sub value] …",
        description=(
            f"Find the accuracy/MACs frontier of a CNN. CONFIG is a YAML file or one of "
            f"{', '.join(packaged())} (default: {DEFAULT}, as long as network and images are its "
            f"own); flags override it. The defaults below are {_of(source)}. "
            "The same command again goes on where it stopped; a larger "
            "--trials extends the run."
        ),
    )
    parser.add_dataclass(Config)
    parser.read_tree(tree, source)  # what is wrong in the file is reported as the file's
    out = f"runs/{Path(source).stem}" if source else Config.out
    # a key with nothing after it is as good as left out
    given = {key: value for key, value in walk(tree, parser.types) if value is not None}
    parser.set_defaults({"out": out} | given)
    return parser


def read(source: str) -> dict[str, Any]:
    """Nested keys of a packaged configuration, or of a YAML or JSON file; raises UserError."""
    path = CONFIGS / f"{source}.yaml" if source in packaged() else Path(source).expanduser()
    try:
        tree = get_loader("yaml")(path.read_text(encoding="utf-8")) or {}
    except OSError:
        names = ", ".join(packaged())
        raise UserError(f"no configuration {source}: no such file, nor one of {names}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{source} is not YAML: {error}; correct that line") from None
    if not isinstance(tree, Mapping):
        raise UserError(f"{source} holds no keys; write lines such as model: {{name: resnet20}}")
    search = tree.get("search")
    if isinstance(search, dict) and search.get("early_stopping") is False:
        search["early_stopping"] = "off"  # YAML reads a bare off as false
    return dict(tree)


def packaged() -> list[str]:
    """Names of the configurations that come with the package, the default first."""
    names = (path.stem for path in CONFIGS.glob("*.yaml"))
    return sorted(names, key=lambda name: (name != DEFAULT, name))


def is_config(source: str) -> bool:
    """Whether a word of the command line means a configuration rather than a network."""
    return source in packaged() or source.endswith((".yaml", ".yml", ".json"))


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested data for YAML or JSON; `from_dict` is its inverse."""
    plain = _plain(dataclasses.asdict(config))
    assert isinstance(plain, dict)
    return plain


def from_dict(tree: Mapping[str, Any], origin: str = "the configuration") -> Config:
    """Typed configuration; what is left out has its default.

    Raises UserError, naming `origin`, where a key is unknown or a value has the wrong type.
    """
    parser = Parser(prog="slimfront")
    parser.add_dataclass(Config)
    return _config(parser.read_tree(tree, origin))


def changed_keys(a: Config, b: Config) -> list[str]:
    """Dotted keys whose values differ, in the order of `Config`."""
    known = leaf_types(Config)
    old, new = (dict(walk(to_dict(config), known)) for config in (a, b))
    return [key for key in known if old[key] != new[key]]


def absolute(config: Config) -> Config:
    """The same with every local path absolute."""
    replace = dataclasses.replace
    storage_path = _absolute(config.resources.storage_path)
    return replace(
        config,
        out=_absolute(config.out) or config.out,
        model=replace(config.model, weights=_absolute(config.model.weights)),
        data=replace(config.data, root=_absolute(config.data.root)),
        search=replace(config.search, warm_start=_absolute(config.search.warm_start)),
        resources=replace(config.resources, storage_path=storage_path),
    )


def _absolute(path: str | None) -> str | None:
    if path is None or not path.strip() or not is_local(path):
        return path
    return os.path.abspath(os.path.expanduser(path))


def _config(found: Namespace) -> Config:
    return Config(**{f.name: found[f.name] for f in dataclasses.fields(Config)})


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words, and flags with their values: every flag of a search but --help takes one."""
    words: list[str] = []
    flags: list[str] = []
    rest = list(argv)
    while rest:
        head = rest.pop(0)
        if not head.startswith("-"):
            words.append(head)
            continue
        flags.append(head)
        if "=" not in head and head not in ("-h", "--help") and rest:
            flags.append(rest.pop(0))
    return words, flags


def _own(flags: Sequence[str]) -> bool:
    """Whether flags name a network or images other than the demo's."""
    for word, after in zip(flags, [*flags[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name.removeprefix("--").replace("-", "_") in OWN:
            named = value if equals else after
            if named not in (DEFAULT, f"zoo:{DEFAULT}"):
                return True
    return False


def _of(source: str) -> str:
    return f"those of {source}" if source else "those of no file, for a network or images of yours"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
