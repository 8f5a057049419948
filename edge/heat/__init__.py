"""What the appliance does before the machine slows itself down: less work, the least urgent first.

    sensors ─► policy (how much room is left) ─► ladder (which level) ─► governor ─► who acts on it

The ladder and the policy are pure, on the caller's clock; the governor alone has a loop.
"""
