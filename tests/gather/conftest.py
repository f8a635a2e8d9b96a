"""A small book in the shape of Project Gutenberg's complete works of Shakespeare."""

from __future__ import annotations

import pytest

BODY = """The Complete Works of William Shakespeare

by William Shakespeare




                    Contents

    THE SONNETS
    ALL’S WELL THAT ENDS WELL
    A PLAY THAT IS LOST
    AS YOU LIKE IT




THE SONNETS

                    1

From fairest creatures we desire increase,

THE END


ALL’S WELL THAT ENDS WELL

Contents

ACT I

COUNTESS.
In delivering my son from me, I bury a second husband.

AS YOU LIKE IT

ORLANDO.
As I remember, Adam, AS YOU LIKE IT was bequeathed me.
"""

BOOK = f"""The Project Gutenberg eBook of The Complete Works of William Shakespeare

This ebook is for the use of anyone anywhere in the United States and
most other parts of the world at no cost and with almost no restrictions
whatsoever.

Title: The Complete Works of William Shakespeare

*** START OF THE PROJECT GUTENBERG EBOOK THE COMPLETE WORKS OF WILLIAM SHAKESPEARE ***



{BODY}


*** END OF THE PROJECT GUTENBERG EBOOK THE COMPLETE WORKS OF WILLIAM SHAKESPEARE ***

Updated editions will replace the previous one.

START: FULL LICENSE
Project Gutenberg is a registered trademark.
"""


@pytest.fixture
def body() -> str:
    """The text of the book, as it should come out."""
    return BODY


@pytest.fixture
def book() -> str:
    """The book with Project Gutenberg's text around it."""
    return BOOK
