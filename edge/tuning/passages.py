"""The text that two weights types of a model are compared on: what a factory asks and answers.

Each passage is read by itself, from its first token on. There are prose, steps, a question with its
answer, a record and a log, because what coarse weights cost differs between them.
"""

from __future__ import annotations

PASSAGES = (
    """\
Shift report, press line 2, night of 14 March. The hydraulic press stopped three times between
two and four in the morning. Each time the controller showed a pressure of 212 bar, which is above
the limit of 200 bar, and the safety valve opened. The operator let the oil cool down for twenty
minutes and started the press again. After the third stop the maintenance team found that the
filter behind the main pump was blocked with metal dust. They replaced the filter, took a sample of
the oil for the laboratory and wrote down the number of the new part. Since then the pressure has
stayed between 180 and 190 bar. The team recommends changing the filter every six weeks instead of
every twelve, and asks the day shift to listen for unusual noise from the pump.
""",
    """\
How to replace the belt of a conveyor:
1. Switch off the drive, lock the main switch and hang the warning sign on it.
2. Wait until the belt stands still, then release the tension with the two screws at the end roller.
3. Remove the guard on the left side and keep its four bolts together.
4. Pull the old belt off. Look at the rollers: if one of them is worn or turns with difficulty,
replace it now.
5. Put the new belt on so that the arrows point in the direction of travel.
6. Tighten both screws by the same number of turns until the belt can be pressed down by about two
centimetres in the middle.
7. Mount the guard, remove the lock, and let the conveyor run without load for ten minutes. If the
belt drifts to one side, correct it with the screw on that side, a quarter of a turn at a time.
""",
    """\
Question: A bearing of an electric motor has a temperature of 95 degrees Celsius, while the other
one has 60. The motor has run at normal load for three hours. What should be done?
Answer: A difference of more than thirty degrees between two bearings of the same motor is not
normal. First reduce the load, because a bearing that gets hotter may seize within minutes. Then
check whether there is enough grease, and whether it is the right kind; too much grease heats a
bearing as well. If the temperature does not fall, stop the motor and look at the alignment of the
coupling and the tension of the belt. A bearing that makes a grinding noise or has any play has to
be replaced. Write down the temperature every ten minutes until the cause is known.
""",
    """\
Extract the part, the machine, the measured values and the result from the message as JSON.
Message: "Inspection of housing 4711-B on milling machine M07, 9:40. Bore diameter 25.013 mm, limits
24.990 and 25.010. Surface fine. Reject, tell Anna to check the tool."
{"part": "4711-B", "machine": "M07", "time": "9:40", "measurements": [{"name": "bore diameter",
"value": 25.013, "unit": "mm", "lower_limit": 24.990, "upper_limit": 25.010}], "surface": "fine",
"result": "reject", "action": {"who": "Anna", "what": "check the tool"}}
""",
    """\
2024-03-14 06:07:11 INFO  furnace-3: set point 850 C, actual 851 C, door closed
2024-03-14 06:12:11 WARN  furnace-3: set point 850 C, actual 817 C, door open
2024-03-14 06:17:11 WARN  furnace-3: set point 850 C, actual 829 C, door closed
2024-03-14 06:22:11 INFO  furnace-3: set point 850 C, actual 846 C, door closed
Summary: The temperature of furnace 3 fell by more than thirty degrees because its door was open
for about a minute and a half. It was back near the set point ten minutes after the door had been
closed. No part was in the furnace at that time, so nothing has to be scrapped.
""",
)
