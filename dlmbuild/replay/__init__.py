"""What a document once taught and says no more: kept, faded and, where somebody asks for that, purged."""
