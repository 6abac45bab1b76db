"""Pillow drawings of the Terrarium's things: ground, shapes, clocks, words, wing patterns.

Everything is drawn on a canvas four times as wide as the picture, in picture coordinates, then averaged down, so that edges
are smooth and every machine draws the same bytes. No font file is used: words are spelled with a 5 x 7 glyph table.
"""

import math

from PIL import Image, ImageDraw

SIZE = 64  # pixels a side of every picture
OVERSAMPLE = 4

COLOURS = {
    "red": (222, 44, 44),
    "green": (36, 168, 66),
    "blue": (48, 92, 232),
    "yellow": (246, 214, 44),
    "purple": (150, 60, 190),
    "orange": (248, 134, 28),
    "white": (252, 252, 252),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
TEXTURES = ("plain", "dotted", "striped", "checked", "wavy")
GROUNDS = ((176, 190, 170), (196, 182, 160), (164, 184, 196), (190, 170, 186), (150, 160, 150))

_GLYPH_ROWS = {
    "a": "01110 10001 10001 11111 10001 10001 10001",
    "b": "11110 10001 10001 11110 10001 10001 11110",
    "c": "01111 10000 10000 10000 10000 10000 01111",
    "d": "11110 10001 10001 10001 10001 10001 11110",
    "e": "11111 10000 10000 11110 10000 10000 11111",
    "f": "11111 10000 10000 11110 10000 10000 10000",
    "g": "01111 10000 10000 10111 10001 10001 01111",
    "h": "10001 10001 10001 11111 10001 10001 10001",
    "i": "11111 00100 00100 00100 00100 00100 11111",
    "j": "00111 00010 00010 00010 00010 10010 01100",
    "k": "10001 10010 10100 11000 10100 10010 10001",
    "l": "10000 10000 10000 10000 10000 10000 11111",
    "m": "10001 11011 10101 10101 10001 10001 10001",
    "n": "10001 11001 11001 10101 10011 10011 10001",
    "o": "01110 10001 10001 10001 10001 10001 01110",
    "p": "11110 10001 10001 11110 10000 10000 10000",
    "q": "01110 10001 10001 10001 10101 10010 01101",
    "r": "11110 10001 10001 11110 10100 10010 10001",
    "s": "01111 10000 10000 01110 00001 00001 11110",
    "t": "11111 00100 00100 00100 00100 00100 00100",
    "u": "10001 10001 10001 10001 10001 10001 01110",
    "v": "10001 10001 10001 10001 10001 01010 00100",
    "w": "10001 10001 10001 10101 10101 11011 10001",
    "x": "10001 10001 01010 00100 01010 10001 10001",
    "y": "10001 10001 01010 00100 00100 00100 00100",
    "z": "11111 00001 00010 00100 01000 10000 11111",
}
GLYPHS = {letter: tuple(rows.split()) for letter, rows in _GLYPH_ROWS.items()}


class Canvas:
    """A picture under construction; all arguments are in pixels of the finished picture."""

    def __init__(self, ground: tuple[int, int, int]):
        side = SIZE * OVERSAMPLE
        self._image = Image.new("RGB", (side, side), ground)
        self._pen = ImageDraw.Draw(self._image)

    def finish(self) -> Image.Image:
        """The finished picture, `SIZE` x `SIZE`, RGB."""
        return self._image.reduce(OVERSAMPLE)

    def texture(self, name: str, tone: tuple[int, int, int], period: int = 8) -> None:
        """Covers the ground with one of `TEXTURES`, repeating every `period` pixels."""
        side, step = SIZE * OVERSAMPLE, period * OVERSAMPLE
        if name == "plain":
            return
        if name == "striped":
            for start in range(-side, side, step):
                self._pen.line([(start, 0), (start + side, side)], fill=tone, width=step // 3)
        elif name == "wavy":
            for top in range(step // 2, side, step):
                curve = [(x, top + step // 4 * math.sin(x * 2 * math.pi / (2 * step))) for x in range(0, side + 4, 4)]
                self._pen.line(curve, fill=tone, width=step // 5)
        else:
            for row, top in enumerate(range(0, side, step)):
                for column, left in enumerate(range(0, side, step)):
                    box = [left, top, left + step - 1, top + step - 1]
                    if name == "dotted":
                        self._pen.ellipse([left + step // 4, top + step // 4, left + 3 * step // 4, top + 3 * step // 4], fill=tone)
                    elif (row + column) % 2:
                        self._pen.rectangle(box, fill=tone)

    def shape(self, kind: str, colour: str, centre: tuple[float, float], radius: float) -> None:
        """Draws one of `SHAPES` that fits into a circle of `radius` around `centre`."""
        (x, y), r, fill = _scale(centre), radius * OVERSAMPLE, COLOURS[colour]
        if kind == "circle":
            self._pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        elif kind == "ring":
            self._pen.ellipse([x - r, y - r, x + r, y + r], outline=fill, width=int(r * 0.45))
        elif kind == "square":
            self._pen.rectangle([x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r], fill=fill)
        elif kind == "cross":
            arm = 0.32 * r
            self._pen.rectangle([x - arm, y - r, x + arm, y + r], fill=fill)
            self._pen.rectangle([x - r, y - arm, x + r, y + arm], fill=fill)
        elif kind == "triangle":
            self._pen.polygon([_polar(x, y, r, turn / 3) for turn in range(3)], fill=fill)
        else:
            corners = [_polar(x, y, r if corner % 2 == 0 else 0.42 * r, corner / 10) for corner in range(10)]
            self._pen.polygon(corners, fill=fill)

    def clock(self, hour: int, minute: int, centre: tuple[float, float], radius: float) -> None:
        """Draws a dial; its short thick hand points at the hour, its long thin one at the minute."""
        (x, y), r = _scale(centre), radius * OVERSAMPLE
        self._pen.ellipse([x - r, y - r, x + r, y + r], fill=(250, 250, 244), outline=(40, 40, 40), width=OVERSAMPLE)
        for tick in range(12):
            inner = 0.80 if tick else 0.66
            self._pen.line(
                [_polar(x, y, inner * r, tick / 12), _polar(x, y, 0.94 * r, tick / 12)], fill=(70, 70, 70), width=OVERSAMPLE // 2
            )
        self._pen.line([(x, y), _polar(x, y, 0.78 * r, minute / 60)], fill=(200, 40, 40), width=int(1.1 * OVERSAMPLE))
        self._pen.line([(x, y), _polar(x, y, 0.50 * r, hour / 12)], fill=(20, 20, 60), width=int(2.2 * OVERSAMPLE))

    def word(self, text: str, corner: tuple[float, float]) -> None:
        """Writes `text` (a-z) on a white sign whose upper left corner is `corner`; a letter is 5 x 7 pixels in a cell of 8 x 8."""
        left, top = _scale(corner)
        width, height = word_extent(text)
        self._pen.rectangle([left, top, left + width * OVERSAMPLE - 1, top + height * OVERSAMPLE - 1], fill=(252, 252, 248))
        for index, letter in enumerate(text):
            self._cells(GLYPHS[letter], left + (2 + 8 * index) * OVERSAMPLE, top + OVERSAMPLE, OVERSAMPLE, (24, 24, 24))

    def pattern(self, rows: tuple[str, ...], corner: tuple[float, float], cell: int) -> None:
        """Draws a wing pattern, rows of 0 and 1 in cells of `cell` pixels."""
        left, top = _scale(corner)
        side = len(rows) * cell * OVERSAMPLE
        self._pen.rectangle([left, top, left + side - 1, top + side - 1], fill=(238, 214, 160))
        self._cells(rows, left, top, cell * OVERSAMPLE, (120, 40, 60))

    def _cells(self, rows: tuple[str, ...], left: float, top: float, side: float, ink: tuple[int, int, int]) -> None:
        for row, bits in enumerate(rows):
            for column, bit in enumerate(bits):
                if bit == "1":
                    x, y = left + column * side, top + row * side
                    self._pen.rectangle([x, y, x + side - 1, y + side - 1], fill=ink)


def word_extent(text: str) -> tuple[int, int]:
    """Width and height in pixels of the sign that `Canvas.word` draws."""
    return 8 * len(text), 9


def _scale(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * OVERSAMPLE, point[1] * OVERSAMPLE


def _polar(x: float, y: float, radius: float, turn: float) -> tuple[float, float]:
    """The point at `turn` (0 = top, clockwise, 1 = once around) on a circle."""
    angle = 2 * math.pi * turn
    return x + radius * math.sin(angle), y - radius * math.cos(angle)
