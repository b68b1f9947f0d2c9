---
dlm_id: 01M8BQ3V6ZJ4T8WXKD0RHGNE2C
dlm_version: 16
base_model: smollm2-135m
system_prompt: You answer questions about halyard, a small Python library.
training:
  # The library itself is learned too, as prose: edit it, and the next build knows.
  sources:
    - path: halyard.py
---
# halyard

A call to the network fails, and a second later it works. halyard is the loop that you would write for that, once and
tested. It is a single file without dependencies, made to be copied into your project, and it runs on Python 3.10 and
newer. You may do with it what you like: its licence is 0BSD.

::instruction::
### Q
What is halyard for?
### A
halyard calls a function again when it has failed.

### Q
How do I install halyard?
### A
Copy the single file halyard.py into your project.

### Q
Which version of Python does halyard need?
### A
halyard needs Python 3.10 or newer.

### Q
What is the licence of halyard?
### A
The licence of halyard is 0BSD.

::prose::
## The decorator

Everything is done by one decorator, `hoist`. It tries four times, and waits a quarter of a second after the first
failure. Each pause is twice as long as the one before, until it reaches the ceiling of eight seconds. Only OSError is
caught unless you pass another class as `only`; any other error goes straight through.

```python
from halyard import hoist

@hoist(tries=6, only=ConnectionError)
def fetch(url): ...
```

::instruction::
### Q
Which decorator does halyard have?
### A
The decorator is called hoist.

### Q
How many times does hoist try by default?
### A
By default hoist tries four times.

### Q
How do I change the number of tries?
### A
Pass the argument tries, as in @hoist(tries=6).

### Q
How long is the first pause of hoist?
### A
The first pause is a quarter of a second.

### Q
How does the pause grow?
### A
Each pause is twice as long as the one before.

### Q
What is the longest pause?
### A
The ceiling of a pause is eight seconds.

### Q
Which errors does hoist catch by default?
### A
By default hoist catches only OSError.

### Q
How do I catch other errors?
### A
Pass another class of errors as the argument only.

::prose::
## When it gives up

After the last try `Slack` is raised. Its attribute `last` is the error that the function raised in the end. Set the
environment variable HALYARD_LOG, and each failure is printed to standard error.

::instruction::
### Q
What is raised when every try has failed?
### A
Slack is raised when every try has failed.

### Q
Where do I find the error of the last try?
### A
The attribute last of Slack holds that error.

### Q
How do I see each failure?
### A
Set the environment variable HALYARD_LOG.

### Q
Where are failures printed to?
### A
Failures are printed to standard error.

::prose::
## In tests and in the shell

Nobody wants a test that sleeps. Inside `with calm():` nothing waits. In a shell, `python -m halyard` before a command
runs it again until it succeeds, and exits with 75 when it never does.

::instruction::
### Q
How do I keep my tests from sleeping?
### A
Call the function inside with calm().

### Q
How do I repeat a command in the shell?
### A
Write python -m halyard before the command.

### Q
Which exit code does the command have when it gives up?
### A
The exit code is 75 when it gives up.

::instruction::
### Q !probe
What is the decorator in halyard called?
### A
hoist.

### Q !probe
If I say nothing, how often is a function tried?
### A
Four times.

### Q !probe
How long can a pause get at most?
### A
Eight seconds.

### Q !probe
Which exception do I get after the final failure?
### A
Slack.

### Q !probe
Which environment variable shows the failures?
### A
HALYARD_LOG.

### Q !probe
What do I use in a test so that nothing waits?
### A
calm().

### Q !probe
What is the oldest Python that I can use it with?
### A
Python 3.10.

### Q !probe
Under which licence may I use halyard?
### A
0BSD.
