"""A sample of YouTube channels that teach, mostly with good captions in English.

In: nothing. Out: channel ids with names. Each id stands beside this name in the lists of several
public projects; YouTube itself was not asked. One that does not exist is said and passed over.
"""

from __future__ import annotations

CHANNELS = {
    "UCYO_jab_esuFRV4b17AJtAw": "3Blue1Brown",
    "UC4a-Gbdw7vOaccHmFo40b9g": "Khan Academy",
    "UCEBb1b_L6zDS3xTUrIALZOw": "MIT OpenCourseWare",
    "UCX6b17PVsYBQ0ip5gyeme-Q": "CrashCourse",
    "UCsXVk37bltHxD1rDPwtNM8Q": "Kurzgesagt",
    "UCHnyfMqiRRG1u-2MsSQLbXA": "Veritasium",
    "UCAuUUnT6oDeKwE6v1NGQxug": "TED",
    "UC6107grRI4m0o2-emgoDnAA": "SmarterEveryDay",
    "UCoxcjq-8xIDTYp3uz647V5A": "Numberphile",
    "UC9-y-6csu5WGm29I7JiwpnA": "Computerphile",
}
