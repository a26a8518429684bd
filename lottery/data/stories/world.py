"""A small story world: text from a seed, the same on every machine and every Python.

Each story follows two or three people through a few episodes. The world tracks who is where, and who has what and how many, so later
sentences must agree with earlier ones: a model has to carry facts, not only grammar.
"""

import hashlib
from collections.abc import Iterator
from itertools import count

from lottery.data.stories import lexicon as lex
from lottery.data.stories.grammar import Draw, Person, a, joined, upper

TEST_SHARE = 1 / 64


class Story:
    """One story from one seed; ``text`` is a few paragraphs, about 90 to 260 words."""

    def __init__(self, seed: int):
        self.draw = Draw(seed)
        self.lines: list[str] = []
        self.used: set[str] = set()
        girls = [self.draw.chance(0.5) for _ in range(3 if self.draw.chance(0.3) else 2)]
        self.people = [Person(self.fresh(lex.GIRLS if girl else lex.BOYS), girl) for girl in girls]
        self._opening()
        episodes = [self._gift, self._lost, self._trade, self._counting, self._animal, self._hidden, self._leisure, self._question]
        for _ in range(self.draw.between(2, 4)):
            self.lines.append("\n\n")
            self._travel()
            self.draw.choose(episodes)()
        self.lines.append("\n\n")
        self._closing()
        self.text = "\n\n".join(" ".join(p.split()) for p in " ".join(self.lines).split("\n\n"))

    def say(self, *choices: str) -> None:
        self.lines.append(upper(self.draw.choose(choices)))

    def fresh(self, items):
        """Pick an item that this story has not named yet, so that every thing and name in it is unique."""
        while (item := self.draw.pick(items)) in self.used:
            pass
        self.used.add(item)
        return item

    def new_thing(self) -> str:
        look = self.draw.pick([lex.COLOURS, lex.MATERIALS, lex.LOOKS])
        return f"{self.draw.pick(look)} {self.fresh(lex.THINGS)}"

    def two(self) -> tuple[Person, Person]:
        first = self.draw.between(0, len(self.people) - 1)
        second = (first + self.draw.between(1, len(self.people) - 1)) % len(self.people)
        return self.people[first], self.people[second]

    def _opening(self) -> None:
        d, (first, *others) = self.draw, self.people
        town = d.pick(lex.PLACE_HEADS) + d.pick(lex.PLACE_TAILS)
        job = d.pick(lex.JOBS)
        full_name = f"{first.name} {d.pick(lex.PLACE_HEADS)}{d.pick(lex.SURNAME_TAILS)}"
        start = self.fresh(lex.PLACES)
        self.say(
            f"once upon a time there was {a(d.pick(lex.TRAITS))} {job} named {full_name} who lived in {town}.",
            f"in the town of {town} lived {a(job)} named {full_name}, who was {d.pick(lex.TRAITS)} and {d.pick(lex.TRAITS)}.",
            f"one {d.pick(lex.SEASONS)}, {a(job)} named {full_name} came to {town}.",
            f"{full_name} was {a(d.pick(lex.TRAITS))} {job} from {town}.",
        )
        for other in others:
            relation = d.pick(["friend", "neighbour", "cousin", "sister" if other.he == "she" else "brother", "helper"])
            self.say(
                f"{first.his} {relation} {other.name} was {d.pick(lex.TRAITS)}.",
                f"{first.he} had {a(relation)} named {other.name}.",
                f"{other.name} was {first.his} {d.pick(lex.TRAITS)} {relation}.",
            )
        for person in self.people:
            person.place = start
        self.say(
            f"on {d.pick(lex.DAYS)} {d.pick(lex.TIMES)} they met at the {start}.",
            f"one {d.pick(lex.TIMES)} in {d.pick(lex.MONTHS)} they were all at the {start}.",
            f"they often met at the {d.pick(lex.PLACE_LOOKS)} {start}.",
        )
        if d.chance(0.5):
            self.say(*lex.WEATHER)
        if d.chance(0.7):
            owner, thing = d.pick(self.people), self.new_thing()
            owner.things.append(thing)
            self.say(
                f"{owner.name} had {a(thing)}.",
                f"{owner.name} always carried {a(thing)}.",
                f"{owner.name} was proud of {owner.his} {thing}.",
            )

    def _travel(self) -> None:
        d, place, company = self.draw, self.fresh(lex.PLACES), joined([p.name for p in self.people])
        move = d.pick(lex.MOVES)
        self.say(
            f"then {company} {move} to the {place}.",
            f"the next {d.pick(lex.TIMES)}, they {move} to the {d.pick(lex.PLACE_LOOKS)} {place}.",
            f"after that they {d.pick(lex.ADVERBS)} {move} to the {place}.",
            f"later that day {company} {move} from the {self.people[0].place} to the {place}.",
        )
        for person in self.people:
            person.place = place
        if d.chance(0.35):
            self.say(*lex.WEATHER, f"the {place} was {d.pick(lex.PLACE_LOOKS)}.", f"it was {d.pick(lex.PLACE_LOOKS)} at the {place}.")

    def _owner(self) -> tuple[Person, Person, str]:
        """Return a person with a thing (found now if nobody has one), another person, and the thing."""
        first, second = self.two()
        if not first.things:
            thing = self.new_thing()
            first.things.append(thing)
            self.say(
                f"{first.name} found {a(thing)} at the {first.place}.",
                f"there {first.name} bought {a(thing)} for {lex.NUMBERS[self.draw.between(2, 12)]} coins.",
                f"{first.name} made {a(thing)} there.",
                f"{self.draw.pick(lex.UNDER)} the {self.draw.pick(lex.SPOTS)} {first.name} saw {a(thing)} and picked it up.",
            )
        return first, second, first.things[-1]

    def _feels(self, person: Person, moods: list[str]) -> None:
        d = self.draw
        self.say(
            f"{person.name} was very {d.pick(moods)}.",
            f"{person.name} felt {d.pick(moods)}.",
            f"this made {person.name} {d.pick(moods)}.",
            f"{person.name} {d.pick(lex.SOUNDS_GOOD if moods is lex.MOODS_GOOD else lex.SOUNDS_BAD)}, for {person.he} was {d.pick(moods)}.",
        )

    def _gift(self) -> None:
        giver, taker, thing = self._owner()
        noun = thing.split()[-1]
        self.say(
            f'"this {noun} is for you," said {giver.name} and gave the {thing} to {taker.name}.',
            f"{giver.name} {self.draw.pick(lex.ADVERBS)} gave {taker.name} the {thing}.",
            f"{taker.name} had always wanted {a(noun)}, so {giver.name} gave {taker.him} the {thing}.",
        )
        giver.things.remove(thing)
        taker.things.append(thing)
        self.say(
            f'"thank you, {giver.name}," said {taker.name}.', f"now {taker.name} had the {noun}.", f"{taker.name} thanked {giver.him}."
        )
        self._feels(taker, lex.MOODS_GOOD)

    def _lost(self) -> None:
        owner, helper, thing = self._owner()
        d, noun, spot = self.draw, thing.split()[-1], f"{self.draw.pick(lex.UNDER)} the {self.draw.pick(lex.SPOTS)}"
        self.say(
            f"but soon the {thing} was gone.", f"suddenly {owner.name} could not find the {noun}.", f"there {owner.name} lost the {thing}."
        )
        self._feels(owner, lex.MOODS_BAD)
        self.say(f'"where is my {noun}?" asked {owner.name}.', f'"have you seen my {noun}, {helper.name}?" asked {owner.name}.')
        if d.chance(0.75):
            self.say(
                f"{helper.name} looked everywhere and found the {noun} {spot}.",
                f'"I see it! It is {spot}," said {helper.name}.',
                f"they searched together, and {helper.name} saw the {noun} {spot}.",
            )
            self.say(f"{owner.name} took the {noun} and thanked {helper.name}.", f"so {owner.name} had the {noun} again.")
            self._feels(owner, lex.MOODS_GOOD)
        else:
            owner.things.remove(thing)
            self.say(f"they looked everywhere, but nobody found the {noun}.", f"the {noun} was never seen again.")

    def _trade(self) -> None:
        first, second, thing = self._owner()
        other = second.things[-1] if second.things else self.new_thing()
        if other not in second.things:
            second.things.append(other)
            self.say(f"{second.name} had {a(other)}.", f"{second.name} showed {first.him} {a(other)}.")
        mine, yours = thing.split()[-1], other.split()[-1]
        self.say(
            f'"I will give you my {mine} for your {yours}," said {first.name}.',
            f'"shall we trade the {mine} for the {yours}?" asked {first.name}.',
        )
        if self.draw.chance(0.7):
            first.things.remove(thing)
            second.things.remove(other)
            first.things.append(other)
            second.things.append(thing)
            self.say(f"{second.name} agreed.", f'"yes," said {second.name}.', f'"gladly," said {second.name}.')
            self.say(
                f"so {first.name} got the {yours} and {second.name} got the {mine}.",
                f"now the {yours} belonged to {first.name} and the {mine} to {second.name}.",
            )
        else:
            self.say(
                f'"no," said {second.name}, "I want to keep my {yours}."',
                f"but {second.name} shook {second.his} head and kept the {yours}.",
            )

    def _counting(self) -> None:
        d, (first, second) = self.draw, self.two()
        one, many = self.fresh(lex.FOODS)
        owned = d.between(3, 12)
        given = d.between(1, owned - 1)
        amount = lambda n: f"{lex.NUMBERS[n]} {one if n == 1 else many}"  # noqa: E731
        self.say(
            f"{first.name} bought {amount(owned)} there.",
            f"{first.name} had {amount(owned)} in a basket.",
            f"{first.name} picked {amount(owned)}.",
        )
        self.say(
            f"{first.he} gave {lex.NUMBERS[given]} of them to {second.name}.",
            f"{second.name} was hungry and ate {lex.NUMBERS[given]} of them.",
            f"{lex.NUMBERS[given]} of them fell into the water.",
        )
        self.say(
            f"so {first.name} had {amount(owned - given)} left.",
            f"then there {'was' if owned - given == 1 else 'were'} only {amount(owned - given)} left.",
        )

    def _animal(self) -> None:
        d, (first, second) = self.draw, self.two()
        animal, (trouble, help_, outcome) = self.fresh(lex.ANIMALS), d.pick(lex.TROUBLES)
        self.say(
            f"there they met {a(d.pick(lex.LOOKS[:7] + lex.COLOURS))} {animal}.",
            f"{first.name} heard {a(animal)} crying.",
            f"{a(animal)} sat beside the {d.pick(lex.SPOTS)}.",
        )
        self.say(f"the {animal} {trouble}.", f"{first.name} saw that the {animal} {trouble}.")
        self.say(f'"we must help the {animal}," said {second.name}.', f'"poor {animal}!" said {first.name}.')
        self.say(f"{first.name} {d.pick(lex.ADVERBS)} {help_}.", f"{second.name} {help_}.")
        self.say(f"soon the {animal} {outcome}.", f"then the {animal} {outcome}.")

    def _hidden(self) -> None:
        owner, seeker, thing = self._owner()
        d, noun = self.draw, thing.split()[-1]
        box = f"{d.pick(lex.COLOURS)} {self.fresh(lex.CONTAINERS)}"
        self.say(f"{owner.name} hid the {thing} in the {box}.", f"{owner.name} {d.pick(lex.ADVERBS)} put the {noun} into {a(box)}.")
        self.say(f'"guess where the {noun} is," said {owner.name}.', f"{seeker.name} wanted to see the {noun}.")
        self.say(
            f"{seeker.name} opened the {box.split()[-1]}, and there was the {noun}.",
            f'"it is in the {box}," said {seeker.name}, and {seeker.he} was right.',
        )
        self.say(
            f"{owner.name} {d.pick(lex.SOUNDS_GOOD)} and took the {noun} back.",
            f"{owner.name} took the {thing} out of the {box.split()[-1]}.",
        )

    def _leisure(self) -> None:
        d, (first, second) = self.draw, self.two()
        one, two = self.fresh(lex.WORKS), self.fresh(lex.WORKS)
        self.say(f"there {first.name} {one} and {second.name} {two}.", f"{first.name} {one}, while {second.name} {two}.")
        if d.chance(0.5):
            self.say(
                f"after a while {second.name} {self.fresh(lex.WORKS)} as well.",
                f"they {d.pick(lex.SOUNDS_GOOD)} and stayed for {lex.NUMBERS[d.between(2, 9)]} hours.",
            )
        self._feels(first, lex.MOODS_GOOD if d.chance(0.8) else lex.MOODS_BAD)

    def _question(self) -> None:
        owner, other, thing = self._owner()
        noun, place = thing.split()[-1], owner.place
        self.say(
            f'"who has the {noun}?" asked {other.name}.',
            f'"do you still have the {thing}?" asked {other.name}.',
            f'"whose {noun} is this?" asked {other.name}.',
        )
        self.say(f'"it is mine," said {owner.name}.', f'"I have it," said {owner.name}.', f'"the {noun} belongs to me," said {owner.name}.')
        self.say(
            f'"and where are we?" "We are at the {place}," said {other.name}.',
            f'"let us leave the {place} soon," said {other.name}.',
            f"they talked about the {noun} for a long time.",
        )

    def _closing(self) -> None:
        d = self.draw
        self.say(
            f"at the end of the day they were still at the {self.people[0].place}.",
            f"when night came, they went home from the {self.people[0].place}.",
            "then it was time to go home.",
        )
        owners = [p for p in self.people if p.things]
        for person in owners:
            things = joined(["the " + thing for thing in person.things])
            self.say(
                f"{person.name} had {things}.",
                f"{person.name} went to bed with {things}.",
                f"{things} {'was' if len(person.things) == 1 else 'were'} with {person.name}.",
            )
        if not owners:
            self.say("nobody had anything, but nobody minded.", "their hands were empty, but their hearts were full.")
        self.say(
            f"and they learned that {d.pick(lex.LESSONS)}.",
            f"{self.people[0].name} knew now that {d.pick(lex.LESSONS)}.",
            f"from that day on they were {d.pick(lex.MOODS_GOOD)}.",
        )


def is_test(text: str) -> bool:
    """Return whether a story is for testing. Its own words decide, so no seed can put a story into both training and test."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) < TEST_SHARE * 2**64


def story(seed: int, number: int) -> str:
    """Return one story of a seed, for training or for testing."""
    return Story(seed * 1_000_000_007 + number).text


def stories(seed: int, *, test: bool) -> Iterator[str]:
    """Yield the endless sequence of training (or test) stories of a seed."""
    for number in count():
        if is_test(text := story(seed, number)) == test:
            yield text
