"""Pages and drawings of the two state tables: statuses of resources, states of a backend.

Both come from the tables that the service runs on.  The drawings are SVG written here, so that
nothing has to be installed to make them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from rst import document, list_table, literal, section

from volsvc import states
from volsvc.initializer import NEXT_STATE, SELF_HEALING, Event, InitState

# -- statuses ------------------------------------------------------------------------

STATES_INTRO = """\
Every change of a status in the service is a row of one table (``volsvc/states.py``), and these
pages are printed from it. An operation starts only from the statuses in "From"; the resource shows
"During" until the operation ends, then "Done" or "Failed". An operation that was cancelled leaves
what it had.

The drawing has one lane for each action on a volume, a snapshot or an attachment.

.. image:: statuses.svg
   :alt: From which statuses each action starts and where it leads

"""

COMPUTED = """\
"From the attachments" means the volume's status follows from the statuses of its attachments:
"""


def make_states_page() -> str:
    parts = [document("Statuses and operations", STATES_INTRO)]
    rows = []
    for row in states.TRANSITIONS.values():
        notes = [text for flag, text in ((row.waits, "answers with its result"), (row.record_only, _NO_DAEMON)) if flag]
        rows.append((literal(row.action), *_cells(row.first), "; ".join(notes)))
        if row.second is not None:
            rows.append(("", *_cells(row.second), "others may share it" if row.second.shared else ""))
    header = ("Operation", "Resource", "From", "During", "Done", "Failed", "Notes")
    parts.append(section("Operations", list_table(header, rows, (18, 10, 22, 12, 12, 12, 14))))
    computed = [(literal(status), literal(states.compute_volume_status([status]))) for status in _ATTACHMENT_STATUSES]
    table = list_table(("An attachment that is", "makes the volume"), computed, (50, 50))
    parts.append(section("Volumes and their attachments", f"{COMPUTED}\n{table}\n{_WEIGHT}"))
    operation_states = "\n".join(f"* {literal(state)}: {_OPERATION_STATES[state]}" for state in states.OperationState)
    parts.append(section("States of an operation", operation_states + "\n"))
    return "\n".join(parts)


_NO_DAEMON = "needs no daemon"
_ATTACHMENT_STATUSES = [str(s) for s in states.AttachStatus if s not in ("deleted", "detached")]
_WEIGHT = (
    "With several attachments the one furthest to being connected counts. A status that is not one of these "
    "(``extending``, ``error`` and so on) is not overwritten by what happens to an attachment.\n"
)
_OPERATION_STATES = {
    states.OperationState.QUEUED: "recorded; nothing has begun, or it was put back.",
    states.OperationState.RUNNING: "a daemon has claimed it and works on it.",
    states.OperationState.DONE: "it succeeded.",
    states.OperationState.FAILED: "it failed; ``error`` says why.",
    states.OperationState.CANCELLED: "it was asked to stop and stopped, or was taken back before it began.",
}


def _cells(change: states.Change) -> tuple[str, ...]:
    return (
        str(change.resource),
        _sources(change.sources),
        *(_status(status) for status in (change.during, change.success, change.failure)),
    )


def _sources(sources: states.Sources) -> str:
    if isinstance(sources, states.From):
        return "it is new" if sources is states.From.NEW else "any status"
    return ", ".join(literal(status) for status in sorted(sources))


_RULES = {
    states.Becomes.UNCHANGED: "unchanged",
    states.Becomes.PREVIOUS: "what it was",
    states.Becomes.COMPUTED: "from the attachments",
    states.Becomes.GONE: "deleted",
}


def _status(status: states.Status) -> str:
    return _RULES[status] if isinstance(status, states.Becomes) else literal(status)


# -- a backend's states -----------------------------------------------------------------

INITIALISATION_INTRO = """\
The states of a backend, from the table that the service runs on (``volsvc/initializer.py``).
:doc:`/admin-backends` says what each means and what to do.

.. image:: initialisation.svg
   :alt: The states of a backend and what leads from one to another

Arrows that lead back to the state they come from are left out of the drawing.

"""

_SHORT = {
    Event.SUCCEEDED: "succeeded",
    Event.FAILED: "failed",
    Event.FAILED_LAST: "failed, last",
    Event.FAILED_FOR_GOOD: "failed for good",
    Event.LOST: "lost",
    Event.ASKED: "asked",
}


def make_initialisation_page() -> str:
    header = ("State", *(_SHORT[event] for event in Event))
    rows = [
        (literal(state), *(_next(state, event) for event in Event)) for state in InitState
    ]  # fmt: skip
    meanings = [(_SHORT[event], f"{event[0].upper()}{event[1:]}.") for event in Event]
    healing = ", ".join(literal(state) for state in InitState if state in SELF_HEALING)
    return "\n".join(
        (
            document("States of a backend", INITIALISATION_INTRO),
            section("Transitions", list_table(header, rows, (16, 14, 14, 14, 14, 14, 14))),
            "What the columns mean:\n",
            list_table(("Column", "What has happened"), meanings, (25, 75)),
            f"A backend that is {healing} is tried again by itself.\n",
        )
    )


def _next(state: InitState, event: Event) -> str:
    after = NEXT_STATE[(state, event)]
    return "-" if after is state else literal(after)


# -- drawings ----------------------------------------------------------------------------------

_STYLE = """<style>
text { font: 13px sans-serif; fill: #222 }
.small { font-size: 11px }
.head { font-weight: bold }
rect { fill: #f4f6f8; stroke: #556 }
.good { fill: #e4f3e6 } .bad { fill: #fbe6e3 } .during { fill: #fff6d8 }
path { fill: none; stroke: #556; stroke-width: 1.4; marker-end: url(#arrow) }
.E0 { stroke: #2e7d32 } .E1 { stroke: #b36b00 } .E2 { stroke: #c62828 } .E3 { stroke: #7b1fa2 }
.E4 { stroke: #c2185b } .E5 { stroke: #1565c0 }
</style>
<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L10 5 L0 10 z" style="fill:#556;stroke:none;marker-end:none"/></marker></defs>
"""


def _svg(width: int, height: int, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join((head, _STYLE, *parts, "</svg>"))


def _box(x: float, y: float, width: float, lines: Sequence[str], style: str = "") -> str:
    """A box with its lines of text; ``x``, ``y`` is its top left corner."""
    height = 10 + 15 * len(lines)
    texts = "".join(
        f'<text x="{x + width / 2:.0f}" y="{y + 17 + 15 * number:.0f}" text-anchor="middle">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return f'<rect class="{style}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height}" rx="6"/>{texts}'


def make_statuses_drawing() -> str:
    parts = []
    for x, title in ((10, "operation"), (230, "from"), (430, "during"), (620, "done, or failed")):
        parts.append(f'<text class="head" x="{x}" y="18">{title}</text>')
    top = 30.0
    for row in states.TRANSITIONS.values():
        if row.first.resource is states.Resource.SERVICE:
            continue
        drawn, height = _lane(row, top)
        parts.extend(drawn)
        top += height + 12
    return _svg(800, round(top), parts)


def _lane(row: states.Transition, top: float) -> tuple[list[str], float]:
    change = row.first
    sources = [change.sources.value] if isinstance(change.sources, states.From) else sorted(change.sources)
    if isinstance(change.sources, states.From):
        sources = ["new" if change.sources is states.From.NEW else "any status"]
    height = max(66.0, 10.0 + 15 * len(sources))
    middle = top + height / 2
    source_top = middle - (10 + 15 * len(sources)) / 2
    parts = [
        f'<text x="10" y="{middle + 4:.0f}">{escape(row.action)}</text>',
        _box(230, source_top, 140, sources),
        _box(430, middle - 12.5, 120, [_plain(change.during)], "during"),
        _box(620, middle - 31, 160, [_plain(change.success)], "good"),
        _box(620, middle + 6, 160, [_plain(change.failure)], "bad"),
        f'<path d="M370 {middle:.0f} L428 {middle:.0f}"/>',
        f'<path d="M550 {middle:.0f} L618 {middle - 18:.0f}"/>',
        f'<path d="M550 {middle:.0f} L618 {middle + 18:.0f}"/>',
    ]
    return parts, height


def _plain(status: states.Status) -> str:
    return _status(status).replace("`", "")


_NODE_WIDTH, _NODE_HEIGHT = 120, 25
_CENTRE, _RADII = (400.0, 290.0), (300.0, 230.0)


def make_initialisation_drawing() -> str:
    # Most arrows lead to 'ready' or to a neighbour on the ring in this order.
    inside, last = InitState.READY, InitState.LOST
    ring = [state for state in InitState if state not in (inside, last)] + [last]
    places = {state: _place(number, len(ring)) for number, state in enumerate(ring)} | {inside: _CENTRE}
    edges: dict[tuple[InitState, InitState], list[Event]] = {}
    for (before, event), after in NEXT_STATE.items():
        if after is not before:
            edges.setdefault((before, after), []).append(event)
    parts = [_edge(places[before], places[after], events) for (before, after), events in edges.items()]
    for state, (x, y) in places.items():
        style = "good" if state is InitState.READY else "during" if state in SELF_HEALING else "bad"
        parts.append(_box(x - _NODE_WIDTH / 2, y - _NODE_HEIGHT / 2, _NODE_WIDTH, [state], style))
    return _svg(800, 580, parts)


def _place(number: int, count: int) -> tuple[float, float]:
    angle = 2 * math.pi * number / count - math.pi / 2
    return _CENTRE[0] + _RADII[0] * math.cos(angle), _CENTRE[1] + _RADII[1] * math.sin(angle)


def _edge(start: tuple[float, float], end: tuple[float, float], events: Sequence[Event]) -> str:
    """A bent arrow with its label, so that the arrow the other way lies beside it."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    bend = 42.0
    control = ((start[0] + end[0]) / 2 - dy / length * bend, (start[1] + end[1]) / 2 + dx / length * bend)
    x1, y1 = _leave(start, control)
    x2, y2 = _leave(end, control)
    # A third of the way, because the middles of long arrows meet.
    t = 0.3
    label_x = (1 - t) ** 2 * x1 + 2 * t * (1 - t) * control[0] + t * t * x2
    label_y = (1 - t) ** 2 * y1 + 2 * t * (1 - t) * control[1] + t * t * y2
    text = " / ".join(_SHORT[event] for event in events)
    style = f"E{list(Event).index(events[0])}"
    return (
        f'<path class="{style}" d="M{x1:.0f} {y1:.0f} Q{control[0]:.0f} {control[1]:.0f} {x2:.0f} {y2:.0f}"/>'
        f'<text class="small" x="{label_x:.0f}" y="{label_y:.0f}" text-anchor="middle" '
        f'stroke="white" stroke-width="3" paint-order="stroke">{escape(text)}</text>'
    )


def _leave(centre: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Where a line from a node's centre leaves its box."""
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    scale = min(
        (_NODE_WIDTH / 2 + 3) / abs(dx) if dx else math.inf, (_NODE_HEIGHT / 2 + 3) / abs(dy) if dy else math.inf
    )
    return centre[0] + dx * scale, centre[1] + dy * scale
