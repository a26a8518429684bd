"""Seeded choices, people, and the small grammar of the story world."""

import random


class Draw:
    """Seeded choices. ``pick`` prefers the front of a list, since words in real text are not equally frequent.

    It uses only ``random.Random.random``, the one method of that class whose sequence Python guarantees across versions.
    """

    def __init__(self, seed: int):
        self.uniform = random.Random(seed).random

    def pick(self, items):
        return items[int(len(items) * self.uniform() ** 1.5)]

    def choose(self, items):
        return items[int(len(items) * self.uniform())]

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def between(self, low: int, high: int) -> int:
        return low + int((high - low + 1) * self.uniform())


class Person:
    """Who a person is, where, and with what."""

    def __init__(self, name: str, girl: bool):
        self.name = name
        self.he, self.him, self.his = ("she", "her", "her") if girl else ("he", "him", "his")
        self.place = ""
        self.things: list[str] = []  # "red kite", newest last


def a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" or noun.startswith("honest") else f"a {noun}"


def upper(sentence: str) -> str:
    """Capitalize the first letter, also behind an opening quotation mark."""
    first = 1 if sentence[0] == '"' else 0
    return sentence[:first] + sentence[first].upper() + sentence[first + 1 :]


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
