"""The command line: arguments in, the calls of the library, text out. The only place that prints."""
