"""Sessions seen by a person: a web application on this machine, its verdicts, and what follows from them."""
