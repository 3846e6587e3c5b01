from dsd_core.decoding.lookahead.guard import FAR_SLOWER, LOOK_TOKENS, TOKENS, TRIAL_TOKENS, Guard


def spend(guard: Guard, seconds_a_token: float, *, promised: float, start: float, right: int = 1) -> float:
    """As many tokens as it takes to decide: more than a first look, where that finds nothing. A miss comes after so many
    right drafts."""
    now = start
    guard.pause()  # or the first token would take no time
    guard.on_tokens(1, now)
    while True:
        now += (1 + right) * seconds_a_token
        guard.on_tokens(1 + right, now)
        guard.on_judged(right=False)
        for _ in range(right):
            guard.on_judged(right=True)
        if guard.is_due:
            guard.decide(promised)
            if not guard.has_looked:
                return now


def test_it_engages_when_streaming_is_slower_than_promised_and_then_tries_again() -> None:
    guard = Guard()
    now = spend(guard, 0.050, promised=0.040, start=0.0)
    assert guard.engaged
    spend(guard, 0.041, promised=0.040, start=now)
    assert not guard.engaged
    assert guard.engagements == 1


def test_in_doubt_it_begins_engaged_and_streaming_is_tried_for_less_long() -> None:
    guard = Guard.in_doubt()
    assert guard.engaged
    assert guard.engagements == 1
    first = spend(guard, 0.040, promised=0.040, start=0.0)
    assert not guard.engaged
    now = spend(guard, 0.060, promised=0.040, start=first)
    assert guard.engaged, "it is no better"
    assert now - first < first
    assert spend(guard, 0.040, promised=0.040, start=now) - now > 1.5 * first, "and is left for longer"


def test_streaming_that_is_tried_again_gets_the_time_of_a_trial_and_not_its_tokens() -> None:
    guard = Guard.in_doubt()
    now = spend(guard, 0.040, promised=0.040, start=0.0)
    assert not guard.engaged
    seconds = spend(guard, 0.200, promised=0.040, start=now) - now
    assert guard.engaged
    assert seconds <= FAR_SLOWER * LOOK_TOKENS * 0.040 + 2 * 0.200


def test_the_round_trip_that_a_change_takes_is_no_speed() -> None:
    """Nor are the misses of that while, which go with its tokens."""
    guard = Guard.in_doubt()
    now = spend(guard, 0.040, promised=0.040, start=0.0)
    assert not guard.engaged
    now += 0.5
    guard.on_judged(right=False)
    guard.on_tokens(1, now)
    assert guard.acceptance(otherwise=0.7) == 0.7
    while not guard.is_due:
        now += 0.030
        guard.on_judged(right=True)
        guard.on_tokens(1, now)
    guard.decide(0.040)
    assert not guard.engaged


def test_it_leaves_alone_what_is_fast_enough() -> None:
    guard = Guard()
    spend(guard, 0.0300, promised=0.040, start=0.0)
    assert not guard.engaged


def test_what_is_hardly_faster_than_promised_is_tried_otherwise_and_the_trial_decides() -> None:
    guard = Guard()
    now = spend(guard, 0.0390, promised=0.040, start=0.0)
    assert guard.engaged, "a trial"
    now = spend(guard, 0.0350, promised=0.040, start=now)
    assert guard.engaged, "it took less than it promises, and less than streaming"
    started = now
    now = spend(guard, 0.0350, promised=0.040, start=now)
    assert not guard.engaged, "streaming is tried again"
    first_stay, windows = now - started, 0
    while not guard.engaged:
        now, windows = spend(guard, 0.0390, promised=0.040, start=now), windows + 1
    assert windows <= 2
    assert spend(guard, 0.0350, promised=0.040, start=now) - now > first_stay, "each failure in a row counts for more"


def test_a_trial_that_shows_nothing_better_is_not_repeated_soon() -> None:
    guard, now = Guard(), 0.0
    engaged = []
    for _ in range(12):
        now = spend(guard, 0.0410 if guard.engaged else 0.0390, promised=0.040, start=now)
        engaged.append(guard.engaged)
    assert engaged == [True] + [False] * 11


def test_what_was_measured_counts_for_more_than_what_was_promised() -> None:
    """A promise that one frame at a time does not keep either must not make everything slower for ever."""
    guard = Guard()
    now = spend(guard, 0.050, promised=0.040, start=0.0)
    now = spend(guard, 0.060, promised=0.040, start=now)
    spend(guard, 0.050, promised=0.040, start=now)
    assert not guard.engaged


def test_a_pause_is_nobodys_speed() -> None:
    guard, now = Guard(), 0.0
    while not guard.is_due:
        guard.pause()
        now += 100.0
        for _ in range(10):
            now += 0.01
            guard.on_tokens(1, now)
    guard.decide(promised=0.0130)
    assert not guard.engaged


def test_what_is_far_slower_is_found_before_a_short_answer_is_over() -> None:
    guard = Guard()
    now = spend(guard, 0.060, promised=0.040, start=0.0)
    assert guard.engaged, "a trial"
    assert now <= (LOOK_TOKENS + 2) * 0.060
    started, now = now, spend(guard, 0.040, promised=0.040, start=now)
    assert guard.engaged, "it is better"
    assert now - started <= (TRIAL_TOKENS + 2) * 0.040
    now = spend(guard, 0.040, promised=0.040, start=now)
    assert not guard.engaged, "streaming is tried again"
    started, now = now, spend(guard, 0.060, promised=0.040, start=now)
    assert guard.engaged, "and has failed again"
    assert now - started <= (LOOK_TOKENS + 2) * 0.060
    started, now = now, spend(guard, 0.040, promised=0.040, start=now)
    assert now - started > 1.5 * TOKENS * 0.040, "for which it is left for longer"


def test_a_first_look_that_took_a_bad_moment_for_slowness_costs_one_trial() -> None:
    guard = Guard()
    now = spend(guard, 0.060, promised=0.040, start=0.0)
    now = spend(guard, 0.070, promised=0.040, start=now)
    assert not guard.engaged, "one frame at a time is no better"
    for _ in range(4):
        now = spend(guard, 0.060, promised=0.040, start=now)
        assert not guard.engaged


def test_luck_is_no_slowness_but_what_goes_on_is() -> None:
    """With nine drafts of ten right a hundred tokens hold ten misses, and a few more or fewer of them cost nothing."""
    guard = Guard()
    now = spend(guard, 0.0390, promised=0.040, start=0.0, right=9)
    now = spend(guard, 0.0400, promised=0.040, start=now, right=9)
    assert not guard.engaged, "the trial has shown nothing better"
    now = spend(guard, 0.0455, promised=0.040, start=now, right=9)
    assert not guard.engaged, "within what luck does"
    windows = 0
    while not guard.engaged:
        now, windows = spend(guard, 0.0475, promised=0.040, start=now, right=9), windows + 1
    assert windows <= 3


def test_a_short_trial_is_not_believed_outright() -> None:
    guard, now = Guard(), 0.0
    now = spend(guard, 0.0390, promised=0.040, start=now, right=9)
    assert guard.engaged, "a trial"
    now = spend(guard, 0.0250, promised=0.040, start=now, right=9)
    assert guard.engaged, "far better, though luck it may have been"
    now = spend(guard, 0.0390, promised=0.040, start=now, right=9)
    assert not guard.engaged, "longer, it is as was promised"
    spend(guard, 0.0340, promised=0.040, start=now, right=9)
    assert not guard.engaged, "so streaming, which is better, stays"


def test_a_drafter_that_says_nothing_is_not_looked_at_early() -> None:
    guard = Guard()
    for token in range(TOKENS - 1):
        guard.on_tokens(1, 0.060 * token)
        assert not guard.is_due
