"""The parts of a client, by what they are about."""
