"""Requests as the engine reads them: their fields, JSON schemas, and its rejections of mistakes."""
