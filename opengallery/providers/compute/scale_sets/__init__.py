"""Scale sets: many machines from one model, created, scaled, upgraded and deleted together.

In Flexible orchestration the instances are virtual machines of the same group; in Uniform they are resources
of their own type below the set, with numbers for names. The rest is the same for both. `model` says what an
instance is made from, `members` which a set has, `batches` how an operation works on many; the other files
are a verb each.
"""
