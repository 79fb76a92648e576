"""One machine, looked over: `probes` find out, each in a process; `judges` say green, yellow or red, and the cure."""
