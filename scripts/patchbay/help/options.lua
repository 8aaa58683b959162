return {
  { name = "pb.options", signature = "pb.options(given, known, name) -> table", summary = "The named arguments of a function of your own, checked and with defaults.",
    text = [[
given: the table that the caller passed, or nil. known: names without a default in its list part, the others with theirs. An unknown name is
an error that suggests the nearest. Gives a new table.]],
    example = [[local o = pb.options(given, { "heads", window = 3, seed = 0 }, "mine.trace")]] },
  { name = "pb.fail", signature = "pb.fail(format, ...)", summary = "Raise an error that names the recipe's line; format and values as for string.format.",
    text = "Lines of Patchbay's own modules are skipped, so that the message points at the call that has to be changed." },
  { name = "pb.one_of", signature = "pb.one_of(value, words, what) -> value", summary = "The value if it is one of the words, else an error that lists them." },
}
