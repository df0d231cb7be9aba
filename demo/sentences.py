"""A small grammar of plain English sentences, with a fixed held-out split.

Every sentence is made from a template by filling its ``{slots}`` with words of our own
choosing. Text is lower case without punctuation (an apostrophe may occur). A sentence
belongs to the held-out part when a hash of its text says so, hence the split needs no
list and never changes with the seed: a held-out sentence is never used for training.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HELD_OUT_SHARE: Final = 0.05  # of all sentences, by hash of the text
RANDOM_WORDS_SHARE: Final = 0.05  # of the training sentences: strings of unrelated words


def words(text: str) -> tuple[str, ...]:
    """Split a list of single words."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Split a list of phrases at commas."""
    return tuple(part.strip() for part in text.split(","))


UNITS: Final = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
TENS: Final = words("twenty thirty forty fifty sixty seventy eighty ninety")


def spell_number(number: int) -> str:
    """Write a number below ten thousand in words.

    >>> spell_number(1024)
    'one thousand twenty four'
    """
    if number < len(UNITS):
        return UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return TENS[tens - 2] + (f" {UNITS[unit]}" if unit else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    head, rest = divmod(number, size)
    return f"{spell_number(head)} {name}" + (f" {spell_number(rest)}" if rest else "")


def number_between(low: int, high: int) -> Callable[[np.random.Generator], str]:
    """Return a slot that yields numbers from ``low`` to ``high`` (both included)."""
    return lambda rng: spell_number(int(rng.integers(low, high + 1)))


def phone_number(rng: np.random.Generator) -> str:
    """Return five to seven digits, read one by one."""
    return " ".join(UNITS[digit] for digit in rng.integers(0, 10, rng.integers(5, 8)))


SLOTS: Final[dict[str, Sequence[str] | Callable[[np.random.Generator], str]]] = {
    "n": number_between(2, 12),
    "tens": number_between(13, 99),
    "hundreds": number_between(100, 999),
    "thousands": number_between(1000, 4999),
    "digit": number_between(1, 9),
    "phone": phone_number,
    "hour": number_between(1, 12),
    "ordinal": words("first second third fourth fifth sixth seventh eighth ninth tenth"),
    "time": phrases(
        "noon, midnight, half past two, half past six, quarter past nine, quarter to four, five thirty, "
        "seven fifteen, ten forty five, eleven o'clock, three o'clock, eight twenty"
    ),
    "day": words("monday tuesday wednesday thursday friday saturday sunday"),
    "month": words("january february march april may june july august september october november december"),
    "part": words("morning afternoon evening"),
    "when": phrases("today, tomorrow, tonight, this week, next week, next month, this weekend, right now"),
    "name": words(
        "anna peter maria david laura michael sarah thomas julia robert emma daniel olivia martin sophie henry"
    ),
    "city": words("london paris berlin madrid rome vienna dublin boston chicago denver oslo lisbon prague tokyo"),
    "place": words("office station airport library museum market hotel hospital school kitchen garden warehouse"),
    "room": phrases("meeting room, server room, kitchen, small office, main hall, waiting room, workshop"),
    "sky": words("sunny cloudy rainy windy foggy stormy cold warm dry"),
    "weather": phrases("rain, snow, fog, heavy rain, strong wind, light snow, thunder, bright sunshine"),
    "side": words("north south east west"),
    "transport": words("train bus taxi ferry tram flight"),
    "food": phrases(
        "vegetable soup, brown bread, cheese sandwich, chicken salad, apple pie, tomato pasta, mushroom pizza, "
        "chocolate cake, orange juice, mineral water, green tea, black coffee"
    ),
    "item": words("box chair table lamp camera printer keyboard monitor battery cable phone bag bottle jacket ticket"),
    "color": words("red blue green yellow black white brown purple orange silver"),
    "adjective": words("old new small large broken heavy empty clean cheap simple"),
    "role": words("manager doctor teacher driver engineer lawyer nurse designer customer neighbour"),
    "topic": phrases(
        "the budget, the new design, the weekly report, the test results, the contract, the road map, "
        "customer feedback, the travel plan, the security review, the training program"
    ),
    "issue": phrases(
        "a billing problem, a wrong address, a missing package, a lost password, a slow connection, "
        "a damaged screen, a late delivery, a double payment"
    ),
    "file": words("report invoice photo message document backup summary letter"),
    "gpu_thing": phrases(
        "the gpu node, the model server, the cluster, the storage volume, the worker pool, the network"
    ),
    "kube": words("pod node service deployment container cluster namespace volume"),
    "state": words("ready pending running healthy offline full stuck idle"),
    "metric": phrases(
        "memory usage, queue length, error rate, average latency, disk space, gpu temperature, request count"
    ),
    "move": words("start stop restart delete update check drain scale"),
    "direction": words("left right"),
    "animal": words("dog cat horse bird rabbit fish"),
    "sport": words("football tennis basketball swimming chess cycling"),
    "instrument": words("piano guitar violin drums"),
    "subject": words("history science music english physics geography"),
    "family": words("mother father sister brother uncle daughter"),
    "percent": number_between(5, 95),
}

TEMPLATES: Final = phrases(
    # Weather
    "the weather in {city} will be {sky} on {day},"
    "expect {weather} in the {side} by {day} {part},"
    "it is {sky} and about {tens} degrees in {city},"
    "there will be {weather} over {city} {when},"
    "take an umbrella because {weather} is coming from the {side},"
    "the temperature drops to {n} degrees after {time},"
    # Travel
    "the {transport} to {city} leaves at {time},"
    "please book a {transport} from {city} to {city} for {day},"
    "the next {transport} arrives at platform {n} in {tens} minutes,"
    "turn {direction} at the {place} and go straight for {hundreds} metres,"
    "how long does the {transport} take to reach {city},"
    "your {transport} to {city} is delayed by {tens} minutes,"
    "{name} will travel from {city} to {city} in {month},"
    "is there a {place} near the {place} in {city},"
    "the {ordinal} {transport} on {day} is already full,"
    # Dates, times, reminders
    "remind me to call {name} at {time} on {day},"
    "set an alarm for {time} tomorrow {part},"
    "wake me up at {time} in the {part},"
    "the shop opens at {time} and closes at {time},"
    "my birthday is on the {ordinal} of {month},"
    "set a timer for {tens} minutes please,"
    "what time does the {place} close on {day},"
    # Meetings
    "let us meet in the {room} on {day} at {time},"
    "the meeting with the {role} moved from {day} to {day},"
    "{name} and {name} will present {topic} on {day},"
    "can we talk about {topic} {when},"
    "please send the {file} to {name} before {time},"
    "the {role} has a question about {topic},"
    "{name} wants to discuss {topic} with the {role},"
    "all {n} of us agreed on {topic} last {day},"
    "thank you for joining the meeting about {topic},"
    # Orders and money
    "i would like to order {n} {food} for {name},"
    "could i have the {food} and some {food} please,"
    "a table for {n} people at {time} please,"
    "the {color} {item} costs {tens} dollars,"
    "we need {hundreds} boxes of {food} by {day},"
    "the total price is {hundreds} dollars and {tens} cents,"
    "order number {phone} was shipped on {day},"
    "please pay {thousands} dollars before the end of {month},"
    "do you have this {item} in {color} or {color},"
    "i bought this {adjective} {color} {item} in {city},"
    # Support calls
    "hello my name is {name} and i have {issue},"
    "i am calling because of {issue} on my account,"
    "my customer number is {phone},"
    "please hold the line while i check the {file},"
    "your call is number {digit} in the queue,"
    "the {item} stopped working after the last update,"
    "can you call me back at {phone} {when},"
    "we are sorry about {issue} and will fix it by {day},"
    "have you tried to {move} the {item},"
    # Places and home
    "put the {adjective} {item} in the {room},"
    "the {color} {item} is under the table in the {room},"
    "turn on the light in the {room},"
    "my {family} lives in the {side} of {city},"
    "the {place} is {n} minutes from the {place},"
    "who left the {color} {item} at the {place},"
    "our {animal} sleeps on the {color} chair,"
    # People and free time
    "{name} plays {sport} every {day} {part},"
    "my {family} is learning to play the {instrument},"
    "the {role} teaches {subject} at a school in {city},"
    "{name} has {n} brothers and a {animal},"
    "the {subject} lesson starts at {time} in room {tens},"
    "she likes {food} but he prefers {food},"
    "the {sport} game on {day} ended {digit} to {digit},"
    # Computing
    "please {move} the {kube} on {gpu_thing},"
    "{gpu_thing} has been {state} since {time},"
    "scale the deployment to {n} replicas {when},"
    "the {metric} went up by {percent} percent,"
    "why is the {kube} still {state},"
    "{gpu_thing} needs {hundreds} more gigabytes of memory,"
    "the {kube} is {state} but the {kube} is {state},"
    "show me the {metric} of {gpu_thing} for {month},"
    "batch size {tens} gives {thousands} requests per second,"
    "the gpu in rack {n} is {percent} percent busy,"
    "move the {ordinal} {kube} to {gpu_thing},"
    "the kubernetes cluster in {city} is {state} {when},"
    "our speech model now runs on {n} gpu nodes,"
    "send an alert when the {metric} is above {percent} percent"
)

_SLOT: Final = re.compile(r"\{(\w+)\}")


def fill(template: str, rng: np.random.Generator) -> str:
    """Replace each slot of a template by a random filling."""

    def filling(match: re.Match[str]) -> str:
        slot = SLOTS[match[1]]
        return slot(rng) if callable(slot) else slot[int(rng.integers(len(slot)))]

    return _SLOT.sub(filling, template)


def is_held_out(text: str) -> bool:
    """Say whether a sentence belongs to the held-out part (a hash of its text decides)."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4]) < HELD_OUT_SHARE * 2**32


def vocabulary() -> list[str]:
    """Return all words that the grammar can say, sorted."""
    texts = [_SLOT.sub(" ", template) for template in TEMPLATES]
    for slot in SLOTS.values():
        texts += [] if callable(slot) else slot
    texts += [*UNITS, *TENS, "hundred thousand"]
    return sorted({word for text in texts for word in text.split()})


def make_sentences(count: int, *, held_out: bool, seed: int) -> list[str]:
    """Return distinct sentences of one side of the split.

    The training side also gets a few strings of three to nine unrelated words, so that
    the model leans on what it hears and not only on which word usually follows.
    """
    rng = np.random.default_rng([seed, int(held_out)])
    lexicon = vocabulary()
    sentences: dict[str, None] = {}  # a dict keeps the order; a set would not
    while len(sentences) < count:
        if not held_out and rng.random() < RANDOM_WORDS_SHARE:
            text = " ".join(rng.choice(lexicon, int(rng.integers(3, 10))))
        else:
            text = fill(TEMPLATES[int(rng.integers(len(TEMPLATES)))], rng)
        if is_held_out(text) == held_out:
            sentences[text] = None
    return list(sentences)
