"""Display backends: what a text screen shows, as text, as a picture, or live in a terminal."""

from .screen import Screen as Screen
