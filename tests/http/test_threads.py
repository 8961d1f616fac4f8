"""Threads come with the tasks that need them."""

import threading

from pensieved.http.threads import Threads
from support.front import wait_until


class Task:
    """Runs until it is let go."""

    def __init__(self):
        self.begun = threading.Event()
        self.end = threading.Event()

    def service(self):
        self.begun.set()
        assert self.end.wait(60)


def add(threads, count):
    tasks = [Task() for _ in range(count)]
    for task in tasks:
        threads.add_task(task)
    return tasks


def let_go(threads, tasks):
    for task in tasks:
        task.end.set()
    assert all(task.begun.wait(60) for task in tasks)
    wait_until(lambda: not threads.active_count)


def test_none_is_there_before_the_first_task():
    threads = Threads(8)
    assert not threads.threads
    let_go(threads, add(threads, 1))
    assert len(threads.threads) == 1
    threads.shutdown()


def test_a_free_thread_is_used_again():
    threads = Threads(8)
    for _ in range(5):
        let_go(threads, add(threads, 1))
    assert len(threads.threads) == 1
    threads.shutdown()


def test_all_run_at_once_up_to_the_bound():
    threads = Threads(8)
    tasks = add(threads, 8)
    assert all(task.begun.wait(60) for task in tasks)
    late = add(threads, 1)[0]
    assert len(threads.threads) == 8
    assert not late.begun.is_set()
    let_go(threads, [*tasks, late])
    threads.shutdown()


def test_tasks_from_many_sides_get_a_thread_each():
    threads = Threads(32)
    tasks = [Task() for _ in range(32)]
    sides = [threading.Thread(target=threads.add_task, args=(task,)) for task in tasks]
    for side in sides:
        side.start()
    assert all(task.begun.wait(60) for task in tasks)
    for side in sides:
        side.join()
    let_go(threads, tasks)
    threads.shutdown()


def test_a_higher_bound_lets_those_in_that_wait():
    threads = Threads(1)
    tasks = add(threads, 3)
    assert tasks[0].begun.wait(60)
    threads.set_thread_count(3)
    assert all(task.begun.wait(60) for task in tasks)
    let_go(threads, tasks)
    threads.shutdown()


def test_none_is_started_once_none_are_allowed():
    threads = Threads(2)
    threads.set_thread_count(0)
    task = add(threads, 1)[0]
    assert not task.begun.is_set()
    assert not threads.threads
    threads.queue.clear()
