"""No exchange: the reference for step times, and for how far replicas drift apart that nobody averages."""

from __future__ import annotations

from .task import Course


def main() -> None:
    """Train alone."""
    course = Course.from_arguments()
    model = course.model()
    optimizer = course.optimizer(model.parameters())
    for step in course.steps([optimizer]):
        optimizer.zero_grad()
        course.loss(model, step).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
    course.finish()


if __name__ == "__main__":
    main()
