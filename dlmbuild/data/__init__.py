"""From a document to what a trainer eats: rows of tokens, and which of them are learned."""
