"""YAML with the meaning of `yaml.safe_load`, but strict and with line numbers.

Invariants of what comes out:

1. Only tags of the safe schema were constructed; `1:30` is text, not the number 90.
2. No mapping repeated a key (a key merged by `<<` gives way to an explicit one and to the first
   merge, as in safe_load).
3. Work and memory are linear in the file: a node that several aliases share is built once, and
   the merged keys, the aliases and the depth are bounded. A node cannot contain itself.

Source: YAML 1.1 with the merge key type draft of 2005, as PyYAML implements them.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from edgecache.config.documents import Document
from edgecache.config.settings import KeyPath
from edgecache.config.units import shown
from edgecache.errors import ConfigError

DEPTH_MAX = 50
ALIAS_COUNT_MAX = 1000
MERGED_KEY_COUNT_MAX = 10_000

_MERGE_TAG = "tag:yaml.org,2002:merge"


class _LimitError(yaml.YAMLError):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """A safe loader that counts depth and aliases while it composes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.alias_count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            self.alias_count += 1
            if self.alias_count > ALIAS_COUNT_MAX:
                raise _LimitError(f"more than {ALIAS_COUNT_MAX} aliases", line)
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise _LimitError(f"nested more than {DEPTH_MAX} deep", line)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Builder:
    """Builds plain data from nodes, each node once."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._built: dict[int, object] = {}
        self._open: set[int] = set()
        self._merged_key_count = 0

    def build(self, node: Node) -> object:
        identity = id(node)
        if identity in self._built:
            return self._built[identity]
        if identity in self._open:
            raise _LimitError("an alias refers to the value that contains it", _line(node))
        self._open.add(identity)
        if isinstance(node, ScalarNode):
            value = self._build_scalar(node)
        elif isinstance(node, SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            value = [self.build(item) for item in node.value]
        elif isinstance(node, MappingNode) and node.tag == "tag:yaml.org,2002:map":
            value = self._build_mapping(node)
        else:
            raise _LimitError(f"the tag {shown(node.tag)} is not supported", _line(node))
        self._open.discard(identity)
        self._built[identity] = value
        return value

    def _build_scalar(self, node: ScalarNode) -> object:
        number_tags = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if node.tag in number_tags and ":" in node.value:
            return node.value
        try:
            return self._loader.construct_object(node)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # PyYAML checks a tag against its text by failing: `!!int ""` is an IndexError there.
            raise _LimitError(f"{shown(node.value)} cannot be read: {error}", _line(node)) from None

    def _build_mapping(self, node: MappingNode) -> dict[Any, object]:
        merged: dict[Any, object] = {}
        explicit: dict[Any, object] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                for key, value in self._merged(value_node).items():
                    merged.setdefault(key, value)
                continue
            key = self.build(key_node)
            if isinstance(key, (list, dict)):
                raise _LimitError("a key is a list or a mapping", _line(key_node))
            if key in explicit:
                raise _LimitError(f"the key {shown(key)} is repeated", _line(key_node))
            explicit[key] = self.build(value_node)
        return {**merged, **explicit}

    def _merged(self, node: Node) -> dict[Any, object]:
        parts = node.value if isinstance(node, SequenceNode) else [node]
        found: dict[Any, object] = {}
        for part in parts:
            value = self.build(part)
            if not isinstance(value, dict):
                raise _LimitError("only a mapping can be merged with <<", _line(part))
            self._merged_key_count += len(value)
            if self._merged_key_count > MERGED_KEY_COUNT_MAX:
                raise _LimitError(f"<< merges more than {MERGED_KEY_COUNT_MAX} keys", _line(part))
            for key, item in value.items():
                found.setdefault(key, item)
        return found


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def parse_yaml(text: str, path: str) -> Document:
    """Parse one YAML document.

    Raises:
        ConfigError: It is malformed, repeats a key, or exceeds a limit.
    """
    line: int | None = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        data = {} if root is None else _Builder(loader).build(root)
    except _LimitError as error:
        problem, line = str(error), error.line
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "syntax error"
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
    except yaml.YAMLError as error:  # the reader's: a character that YAML does not allow
        position = getattr(error, "position", None)
        problem = str(getattr(error, "reason", error))
        line = None if position is None else text.count("\n", 0, position) + 1
    else:
        if data is None:  # a file of comments and `---`
            data = {}
        return Document(data, path, lambda key_path: _find_line(root, key_path))
    raise ConfigError(
        f"the file is not usable YAML: {problem}", hint="correct the line", path=path, line=line
    )


def _find_line(root: Node | None, key_path: KeyPath) -> int | None:
    """Return the line of a key; for a merged one, the line where it is written.

    An item of a list is named by its index.
    """
    node, line = root, None
    for name in key_path:
        if isinstance(node, SequenceNode) and name.isdecimal() and int(name) < len(node.value):
            node = node.value[int(name)]
            line = _line(node)
            continue
        if not isinstance(node, MappingNode):
            return None
        entry = _find_entry(node, name)
        if entry is None:
            return None
        line, node = _line(entry[0]), entry[1]
    return line


def _find_entry(node: MappingNode, name: str) -> tuple[Node, Node] | None:
    pending: list[Node] = [node]
    while pending:
        current = pending.pop(0)
        if isinstance(current, SequenceNode):
            pending.extend(current.value)
        elif isinstance(current, MappingNode):
            for key_node, value_node in current.value:
                if isinstance(key_node, ScalarNode) and key_node.value == name:
                    return key_node, value_node
            pending.extend(v for k, v in current.value if k.tag == _MERGE_TAG)
    return None
