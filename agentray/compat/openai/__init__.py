"""OpenAI's Chat Completions and Responses: their requests, answers, streams and errors."""
