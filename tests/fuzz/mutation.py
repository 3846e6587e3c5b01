"""Messages a bit off: what a broken or hostile peer sends."""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_NUMBERS = (0, 1, 2, 7, 2**31 - 1, 2**31, 2**32 - 1)
_FLOATS = (0.0, -1.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))


def mutate(message: Message, chance: random.Random) -> bytes:
    """Half of the time a field is not what it should be, else the bytes are not."""
    if chance.random() < 0.5:
        return _mutate_bytes(message.SerializeToString(), chance)
    changed = type(message)()
    changed.CopyFrom(message)
    for _ in range(chance.randint(1, 2)):
        _mutate_field(changed, chance)
    return changed.SerializeToString()


def _mutate_bytes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    at = chance.randrange(len(changed))
    match chance.randrange(5):
        case 0:
            changed[at] ^= 1 << chance.randrange(8)
        case 1:
            changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        case 2:
            changed[at:at] = chance.randbytes(chance.randint(1, 8))
        case 3:
            del changed[at : at + chance.randint(1, 8)]
        case 4:
            changed[at:at] = changed[at : at + chance.randint(1, 64)] * chance.randint(1, 20)
    return bytes(changed)


def _mutate_field(message: Message, chance: random.Random) -> None:
    field = chance.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.is_repeated:
        _mutate_column(value, field, chance)
    elif field.message_type is not None:
        _mutate_field(value, chance) if chance.random() < 0.8 else message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, value, chance))


def _mutate_column(column: Any, field: FieldDescriptor, chance: random.Random) -> None:
    match chance.randrange(4):
        case 0:
            del column[chance.randrange(len(column) + 1) :]
        case 1 if column:
            column.extend(list(column) * chance.randint(1, 600))
        case 2 if column:
            column.extend([column[chance.randrange(len(column))]])
        case 3 if column and field.message_type is None:
            column[chance.randrange(len(column))] = _scalar(field, column[0], chance)


def _scalar(field: FieldDescriptor, value: Any, chance: random.Random) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return chance.choice(_NUMBERS[:4] if field.enum_type else _NUMBERS)
        case float():
            return chance.choice(_FLOATS)
        case bytes():
            return chance.choice((b"", value[:-1], value + b"x", chance.randbytes(len(value)), value * 100))
        case _:
            return chance.choice(("", "\0", "..", "ｅ:1", value[:-1], value * 100))
