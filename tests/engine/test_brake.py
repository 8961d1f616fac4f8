from pensieved.engine.blame import FROM_OUTSIDE
from pensieved.engine.brake import LONGEST_PAUSE, Brake


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_gives_up_after_the_limit_and_pauses_longer_each_time():
    brake = Brake(5, 300, Clock())
    assert [brake.died(productive=False) for _ in range(5)] == [0.0, 0.25, 0.5, 1.0, None]


def test_the_pause_is_bounded():
    brake = Brake(20, 300, Clock())
    assert max(brake.died(productive=False) for _ in range(15)) == LONGEST_PAUSE


def test_a_productive_life_clears_the_count():
    brake = Brake(2, 300, Clock())
    for _ in range(50):
        assert brake.died(productive=False) == 0.0
        assert brake.died(productive=True) == 0.0


def test_deaths_outside_the_window_do_not_count():
    clock = Clock()
    brake = Brake(2, 300, clock)
    for _ in range(5):
        assert brake.died(productive=False) == 0.0
        clock.now += 301


def test_deaths_by_somebody_elses_signal_count_little():
    brake = Brake(5, 1e6, Clock())
    assert all(brake.died(productive=False, weight=FROM_OUTSIDE) is not None for _ in range(79))
    assert brake.died(productive=False, weight=FROM_OUTSIDE) is None


def test_release_starts_over():
    brake = Brake(2, 300, Clock())
    brake.died(productive=False)
    brake.release()
    assert brake.died(productive=False) == 0.0
