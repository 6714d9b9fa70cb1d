"""OpenAI's Responses: chat inside, as Messages; what is stored, and what runs in the background."""
