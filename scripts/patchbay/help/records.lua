return {
  { name = "pb.records", signature = "pb.records(name) -> list of { line =, value = } or { line =, error = }",
    summary = "The records of a .jsonl, .csv or .json list one by one, unreadable ones included.",
    text = [[
What a reader of data sets is made of: it can name the line, go on, or stop. A .csv's first line names its columns; each record is a table of
them. Lines count from 1; for a .json list it is the place in the list. A file that is broken as a whole is an error.]] },
}
