"""The built-in searches of the source `wikipedia`: a little of all that people write about."""

TOPICS = (
    "history of science", "physics", "chemistry", "biology", "evolution", "astronomy",
    "geology", "climate", "mathematics", "computer science", "artificial intelligence",
    "engineering", "medicine", "psychology", "philosophy", "ethics", "religion", "mythology",
    "ancient history", "middle ages", "industrial revolution", "world war", "exploration",
    "geography of Africa", "geography of Asia", "rivers and mountains", "cities", "economics",
    "politics and government", "law", "education", "language", "literature", "poetry", "theatre",
    "painting", "architecture", "music", "film", "sport", "food and cooking", "agriculture",
)  # fmt: skip
