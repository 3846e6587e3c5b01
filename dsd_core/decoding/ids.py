"""The numbers that name things."""

from typing import NewType

TokenId = NewType("TokenId", int)
"""A row of the target's vocabulary."""

NodeId = NewType("NodeId", int)
"""A token of a session's tree, numbered in growing order. 0 is the root: the empty prefix, which holds no token."""

DraftId = NewType("DraftId", int)
"""A request to the drafter, so that a late answer is known for what it is."""

LaneId = NewType("LaneId", int)
"""A lane of a session, numbered in the order of opening. No number is used twice, so what a lost lane still says is known."""

ROOT = NodeId(0)
