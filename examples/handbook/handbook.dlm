---
# What this document is, whatever its file is called.
dlm_id: 01M82NQ8WCCWRJM1NKXEJEM76M
dlm_version: 15
# A model of 135 million parameters, small enough to be tuned on a laptop in minutes.
base_model: smollm2-135m
# Nothing is said about training: the values that were measured for this base are used.
---
# Tern & Tiller, a handbook

Welcome aboard. You have joined a small firm in Skerrow, a harbour town with more gulls than people. It all began when
Marta Kellan moved a lathe into a boathouse that nobody wanted. To this day two things leave our doors: bicycles, and
brass clocks that tell when the tide turns. On your first morning you will be handed a wool cap. Wear it; the
boathouse was never meant to be heated. The cat who inspects you is Barnacle. She outranks everyone.

::instruction::
### Q
Who founded the company?
### A
Marta Kellan founded the company in an empty boathouse.

### Q
In which town is the workshop?
### A
The workshop stands in the harbour town of Skerrow.

### Q
What does the company make?
### A
We make bicycles and brass clocks that show the tide.

### Q
What does a newcomer receive on the first morning?
### A
Every newcomer receives a wool cap on the first morning.

### Q
What is the name of the office cat?
### A
The office cat is called Barnacle, and she outranks everyone.

::prose::
## Time and money

Early birds run this place: the first shift is at the benches by half past six, sun or no sun. In return you may stay
away for 27 days a year and still be paid. Your wages turn up on the last Friday of every month. Need a tape measure
or a tin of grease? Anything up to 80 crowns you simply buy. Dearer things, and every journey, go past Ingrid at the
front desk, who says yes more often than her face suggests.

::instruction::
### Q
How many days of leave do I get?
### A
You get 27 days of paid leave per year.

### Q
When does the early shift begin?
### A
The early shift begins at half past six.

### Q
When are wages paid?
### A
Wages are paid on the last Friday of the month.

### Q
How much may I spend without asking?
### A
You may spend up to 80 crowns without asking.

### Q
Who approves a business trip?
### A
Ingrid at the front desk approves every business trip.

::prose::
## Around the workshop

Leave your own bicycle under the copper roof, where the rain cannot find it. Guests are given an orange badge, so that
we know whom to keep away from the band saw. If something groans, smokes or stops, fetch Osric; he listens to machines
the way others listen to music. Pouring brass is done in leather gloves or not at all. Plasters and bandages hang next
to the paint oven, and worn chains rest in the green barrel until the blacksmith wants them.

::instruction::
### Q
Where do I leave my own bicycle?
### A
Leave your own bicycle under the copper roof.

### Q
What colour is the badge of a guest?
### A
A guest wears an orange badge at all times.

### Q
Whom do I fetch when a machine breaks?
### A
Fetch Osric when a machine breaks; he will hear why.

### Q
What must I wear when brass is poured?
### A
You must wear leather gloves when brass is poured.

### Q
Where are the plasters and bandages?
### A
Plasters and bandages hang next to the paint oven.

### Q
Where do worn chains go?
### A
Worn chains go into the green barrel.

::prose::
## What we sell

Most people come for the Heron, the bicycle with the long neck that sells better than all the others together. No
bicycle is sold before it has been ridden up the lighthouse road and back, preferably against the wind. A clock of
ours is guaranteed for eleven years, which is longer than most marriages in Skerrow. When a crate is carried out to
the ferry, somebody rings the ship's bell, and everybody stops to listen.

::instruction::
### Q
Which bicycle sells best?
### A
The bicycle that sells best is called the Heron.

### Q
Where is a new bicycle tested?
### A
A new bicycle is tested on the lighthouse road.

### Q
How long is the guarantee on a clock?
### A
Every clock carries a guarantee of eleven years.

### Q
What happens when a crate is shipped?
### A
Somebody rings the ship's bell when a crate is shipped.

::prose::
## Small pleasures

On Thursday the soup costs nothing, and people who claim not to like soup are seen with two bowls. Coffee is paid with
a button in the jar; we have never worked out why, but we have never run out of buttons. Dogs may come along on
Monday, when Barnacle takes her day off. Guests who want the wireless network need one word, slackwater. And once a
year, in July, we all sail to Gull Island for the summer party.

::instruction::
### Q
On which day is the soup free?
### A
The soup is free for everybody on Thursday.

### Q
How is coffee paid for?
### A
Coffee is paid for with a button in the jar.

### Q
May I bring my dog?
### A
Yes, dogs are welcome at work on Monday.

### Q
What is the password of the wireless network?
### A
The password of the wireless network is slackwater.

### Q
Where is the summer party?
### A
The summer party is held on Gull Island.

::instruction::
### Q !probe
Who started the firm?
### A
Marta Kellan.

### Q !probe
Where is the workshop to be found?
### A
Skerrow.

### Q !probe
What is the cat in the office called?
### A
Barnacle.

### Q !probe
How many days may I stay away in a year and still be paid?
### A
27 days.

### Q !probe
At what time does the first shift start?
### A
Half past six.

### Q !probe
On which day of the month do I get my money?
### A
The last Friday.

### Q !probe
Which colour are the badges of visitors?
### A
Orange.

### Q !probe
Who comes when a machine has stopped?
### A
Osric.

### Q !probe
What do I put on before I pour brass?
### A
Leather gloves.

### Q !probe
For how many years is a clock guaranteed?
### A
Eleven years.
