"""A scene of the Terrarium: what lies where, before it is drawn."""

import operator
import random
from dataclasses import dataclass, field

from PIL import Image

from data.terrarium.draw import COLOURS, GROUNDS, SHAPES, SIZE, TEXTURES, Canvas, word_extent

PLACES = (("top left", "top", "top right"), ("left", "centre", "right"), ("bottom left", "bottom", "bottom right"))
LATTICE = 8  # what skills are asked about stands on multiples of this many pixels
FILL = 0.92  # of the room that a tile gives to its shape
PATTERN_CELLS = 4
MINUTES = tuple(range(0, 60, 5))


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A coloured shape; centre and radius are in pixels."""

    kind: str
    colour: str
    centre: tuple[float, float]
    radius: float

    @property
    def place(self) -> str:
        """The ninth of the picture in which the centre lies, as one of `PLACES`."""
        column, row = (min(2, int(3 * at / SIZE)) for at in self.centre)
        return PLACES[row][column]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A dial; `hour` 1-12, `minute` one of `MINUTES`."""

    hour: int
    minute: int
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that `draw` needs; two equal scenes give the same bytes."""

    ground: int
    texture: str
    tone: int
    period: int
    things: tuple[Thing, ...] = ()
    clock: Clock | None = None
    word: tuple[str, tuple[float, float]] | None = None
    pattern: tuple[tuple[str, ...], tuple[float, float]] | None = None

    def draw(self) -> Image.Image:
        """The picture, `SIZE` x `SIZE`, RGB."""
        ground = GROUNDS[self.ground]
        canvas = Canvas(ground)
        red, green, blue = (max(0, min(255, channel + self.tone)) for channel in ground)
        canvas.texture(self.texture, (red, green, blue), self.period)
        if self.clock:
            canvas.clock(self.clock.hour, self.clock.minute, self.clock.centre, self.clock.radius)
        if self.word:
            canvas.word(*self.word)
        if self.pattern:
            canvas.pattern(*self.pattern, cell=PATTERN_CELLS)
        for thing in self.things:
            canvas.shape(thing.kind, thing.colour, thing.centre, thing.radius)
        return canvas.finish()


@dataclass(kw_only=True)
class SceneBuilder:
    """Puts things on free spots of one picture, at random but without overlap."""

    rng: random.Random
    texture: str | None = None
    _boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    _things: list[Thing] = field(default_factory=list)
    _clock: Clock | None = None
    _word: tuple[str, tuple[float, float]] | None = None
    _pattern: tuple[tuple[str, ...], tuple[float, float]] | None = None

    def build(self) -> Scene:
        """The scene on a random ground."""
        texture = self.texture or self.rng.choice(TEXTURES)
        tone, period = self.rng.choice((-34, -26, 26, 34)), self.rng.choice((6, 8, 10))
        return Scene(
            ground=self.rng.randrange(len(GROUNDS)),
            texture=texture,
            tone=0 if texture == "plain" else tone,  # a plain ground shows neither: equal pictures have equal scenes
            period=0 if texture == "plain" else period,
            things=tuple(self._things),
            clock=self._clock,
            word=self._word,
            pattern=self._pattern,
        )

    def thing(self, kind: str, colour: str, radius: float) -> Thing | None:
        """Adds a shape where there is room, else returns None."""
        corner = self._spot(2 * radius, 2 * radius)
        if corner is None:
            return None
        self._things.append(Thing(kind=kind, colour=colour, centre=(corner[0] + radius, corner[1] + radius), radius=radius))
        return self._things[-1]

    def tile(self, kind: str, colour: str, cells: int) -> Thing | None:
        """Adds a shape that fills `cells` x `cells` squares of the lattice where there is room, else returns None."""
        half = LATTICE * cells / 2
        corner = self._spot(2 * half, 2 * half, LATTICE)
        if corner is None:
            return None
        self._things.append(Thing(kind=kind, colour=colour, centre=(corner[0] + half, corner[1] + half), radius=FILL * half))
        return self._things[-1]

    def clock(self) -> Clock | None:
        """Adds a clock that shows a random time where there is room, else returns None."""
        radius = 12.0
        corner = self._spot(2 * radius, 2 * radius, LATTICE)
        if corner is not None:
            centre = (corner[0] + radius, corner[1] + radius)
            self._clock = Clock(hour=self.rng.randrange(1, 13), minute=self.rng.choice(MINUTES), centre=centre, radius=radius)
        return self._clock

    def word(self, text: str) -> str | None:
        """Adds a sign where there is room, else returns None."""
        corner = self._spot(*word_extent(text), LATTICE)
        if corner is None:
            return None
        self._word = (text, corner)
        return text

    def pattern(self, rows: tuple[str, ...]) -> tuple[str, ...] | None:
        """Adds a wing pattern where there is room, else returns None."""
        side = PATTERN_CELLS * len(rows)
        corner = self._spot(side, side, LATTICE)
        if corner is None:
            return None
        self._pattern = (rows, corner)
        return rows

    def _spot(self, width: float, height: float, lattice: int = 0, tries: int = 60) -> tuple[float, float] | None:
        clear = operator.le if lattice else operator.lt  # on the lattice things may touch
        for _ in range(tries):
            if lattice:
                x, y = (float(lattice * self.rng.randrange(int((SIZE - extent) // lattice) + 1)) for extent in (width, height))
            else:
                x, y = (round(self.rng.uniform(1, SIZE - extent - 1), 2) for extent in (width, height))
            right, low = x + width, y + height
            if all(clear(right, bx) or clear(bx + bw, x) or clear(low, by) or clear(by + bh, y) for bx, by, bw, bh in self._boxes):
                self._boxes.append((x, y, width, height))
                return x, y
        return None


def some_things(builder: SceneBuilder, count: int, radii: tuple[float, float], kinds: tuple[str, ...] = SHAPES) -> list[Thing]:
    """Up to `count` random things of the given kinds; fewer where the picture is full."""
    rng = builder.rng
    found = (builder.thing(rng.choice(kinds), rng.choice(tuple(COLOURS)), round(rng.uniform(*radii), 2)) for _ in range(count))
    return [thing for thing in found if thing is not None]


def some_tiles(builder: SceneBuilder, count: int, cells: tuple[int, ...], kinds: tuple[str, ...] = SHAPES) -> list[Thing]:
    """Like `some_things`, on the lattice; `cells` are the sizes to draw from."""
    rng = builder.rng
    found = (builder.tile(rng.choice(kinds), rng.choice(tuple(COLOURS)), rng.choice(cells)) for _ in range(count))
    return [thing for thing in found if thing is not None]
