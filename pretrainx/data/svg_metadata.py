"""What an SVG drawing says of itself: title, keywords and description, read without reading the drawing."""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.parsers import expat

# The element alone is parsed: a document type with its entities, if any, stands outside it, so that nothing is expanded and
# nothing is fetched; an entity of the document's own inside it makes it unreadable.
_RDF = re.compile(rb"<rdf:RDF[\s>].*?</rdf:RDF>", re.DOTALL)
_ENCODING = re.compile(rb"<\?xml[^>]*?encoding=[\"']([\w-]+)[\"']")
_TITLE, _DESCRIPTION = ("RDF", "Work", "title"), ("RDF", "Work", "description")
_KEYWORD = ("RDF", "Work", "subject", "Bag", "li")


class Metadata(NamedTuple):
    """The Dublin Core of a drawing; "" and () for what it does not say."""

    title: str
    keywords: tuple[str, ...]
    description: str


def read(svg: bytes) -> Metadata | None:
    """The metadata of the first RDF element of a drawing; None where there is none that can be read."""
    found = _RDF.search(svg)
    if found is None:
        return None
    encoding = _ENCODING.match(svg.lstrip(b"\xef\xbb\xbf"))
    texts: dict[tuple[str, ...], list[str]] = {_TITLE: [], _DESCRIPTION: [], _KEYWORD: []}
    path: list[str] = []

    def start(name, _):
        path.append(name.rpartition(":")[2])  # files differ in their prefixes
        if tuple(path) in texts:
            texts[tuple(path)].append("")

    def text(content):
        if tuple(path) in texts:
            texts[tuple(path)][-1] += content

    parser = expat.ParserCreate(encoding[1].decode() if encoding else "utf-8")
    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler = lambda _: path.pop()
    try:
        parser.Parse(found.group(), True)
    except (expat.ExpatError, LookupError):
        return None
    first = lambda key: texts[key][0].strip() if texts[key] else ""
    keywords = tuple(filter(None, (word.strip() for word in texts[_KEYWORD])))
    return Metadata(first(_TITLE), keywords, first(_DESCRIPTION))
