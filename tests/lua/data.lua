-- Data sets: formats, what is refused, what is dropped and told, and facts with their partners.
local pb, check = require "patchbay", require "patchbay.check"
local data = require "patchbay.data"

local model = pb.load "facts"
local EIFFEL = { prompt = "The Eiffel Tower is located in the city of", subject = "Eiffel Tower", attribute = "Paris" }
local quiet = { quiet = true }


check.test("data.facts: the built-in file, only what the model knows", function()
  local facts = data.facts(model, "facts", { n = 60, seed = 1, quiet = true })
  check.eq({ facts.report.read, #facts, facts.report.kept }, { 1045, 60, 60 })
  check.ok(#facts.report.dropped <= 3, "the model knows nearly all of them")
  for i = 1, #facts, 10 do
    local fact = facts[i]
    check.eq(fact.run:top(1)[1].id, fact.answer)
    check.eq(fact.positions, fact.run:find(fact.subject))
    check.ok(rawequal(fact.of, facts))
  end
  check.eq(#facts.subjects, 1045)
  check.eq(facts:accuracy(), 1.0)
  local first, rest = facts:split(0.25)
  check.eq({ #first, #rest }, { 15, 45 })
  check.eq(rest[1].prompt, facts[16].prompt)
  check.eq(#rest.subjects, 1045, "the scale of the noise is the whole file's")
end)

check.test("data.facts: n are drawn with the seed, in the file's order", function()
  local a, b, c = data.facts(model, "facts", { n = 12, seed = 1, quiet = true }), data.facts(model, "facts", { n = 12, seed = 1, quiet = true }),
                  data.facts(model, "facts", { n = 12, seed = 2, quiet = true })
  local function lines(facts)
    local list = {}
    for i, fact in ipairs(facts) do list[i] = fact.line end
    return list
  end
  check.eq(lines(a), lines(b))
  check.ok(table.concat(lines(a), " ") ~= table.concat(lines(c), " "))
  for i = 2, 12 do check.ok(a[i].line > a[i - 1].line) end
end)

check.test("data.facts: what the model does not know is dropped and counted, or kept when asked", function()
  local list = { EIFFEL, { prompt = EIFFEL.prompt, subject = EIFFEL.subject, attribute = "Rome" }, { prompt = EIFFEL.prompt, subject = EIFFEL.subject, attribute = "Parisian" } }
  local facts = data.facts(model, list, quiet)
  check.eq(#facts, 1)
  check.eq(facts.report.dropped, { { line = 3, why = "answer of several tokens" }, { line = 2, why = "not known by the model" } })
  check.eq(tostring(facts), "data.facts: 1 of 3 in the list used; dropped: 1 answer of several tokens, 1 not known by the model")
  local all = data.facts(model, list, { unknown = "keep", quiet = true })
  check.eq(#all, 2)
  check.eq({ all[1].known, all[2].known }, { true, false })
  check.eq(all:accuracy(), 0.5)
  check.raises(function() data.facts(model, { list[2] }, quiet) end, "nothing is left", "1 not known")
end)

check.test("data.facts: ROME's own fields, templates, lengths of subjects", function()
  local facts = data.facts(model, { { subject = "Eiffel Tower", attribute = "Paris", template = "The {} is located in the city of", prediction = " Paris." } }, quiet)
  check.eq(facts[1].prompt, EIFFEL.prompt)
  check.raises(function() data.facts(model, { EIFFEL }, { subject_tokens = { 1, 2 }, quiet = true }) end, "subject of another length")
end)

check.test("data.facts: bad lines are named with their number, and skipped only when asked", function()
  local list = { EIFFEL, { subject = "Big Ben", prompt = "The Eiffel Tower is in", answer = " Paris" }, "nonsense", { prompt = "x" } }
  check.raises(function() data.facts(model, list) end, "line 2", "'Big Ben' is not in the prompt", "skip_bad = true")
  local facts = data.facts(model, list, { skip_bad = true, quiet = true })
  check.eq(#facts, 1)
  local lines = {}
  for i, bad in ipairs(facts.report.bad) do lines[i] = bad.line end
  check.eq(lines, { 2, 3, 4 })
  check.raises(function() data.facts(model, "no_such_task") end, "no_such_task")
  check.raises(function() data.facts(model, 7) end, "file's name")
end)

check.test("facts:pairs: subjects of the same length with another answer, both known", function()
  local facts = data.facts(model, "facts", { n = 16, seed = 2, quiet = true })
  local set, report = facts:pairs { seed = 3, quiet = true }
  check.eq(#set, report.kept)
  check.eq(#set + #report.dropped, 16)
  check.ok(#set >= 13)
  for i = 1, #set do
    local pair = set[i]
    check.eq({ pair.clean:top(1)[1].id, pair.corrupt:top(1)[1].id }, { pair.answer[1], pair.wrong[1] })
    check.ok(pair.answer[1] ~= pair.wrong[1])
    local inside = {}
    for _, pos in ipairs(pair.positions.subject) do inside[pos] = true end
    for p, id in ipairs(pair.clean.tokens) do
      if not inside[p - 1] then check.eq(pair.corrupt.tokens[p], id, "outside the subject nothing changes") end
    end
    check.eq(pair.positions.after, pair.positions.subject_last + 1)
    check.eq(pair.name, pair.info.subject)
  end
  local again, other = facts:pairs { seed = 3, quiet = true }, facts:pairs { seed = 4, quiet = true }
  local same = 0
  for i = 1, #set do
    check.eq(again[i].corrupt.text, set[i].corrupt.text)
    same = same + (other[i] and other[i].corrupt.text == set[i].corrupt.text and 1 or 0)
  end
  check.ok(same < #set, "the seed changes nothing")
end)

check.test("pb.records: JSON lines by their number in the file, broken ones included", function()
  local folder = (check.environment "PB_TEST_DATA" or "tests") .. "/lua/data"
  local records = pb.records(folder .. "/broken.jsonl")
  local lines = {}
  for i, record in ipairs(records) do lines[i] = record.line end
  check.eq(lines, { 1, 3, 4, 6 }, "empty lines count and give nothing")
  check.ok(records[2].error:find("line 3", 1, true), records[2].error)
  check.eq(records[3].value.answer, " Berlin")
  check.raises(function() pb.read(folder .. "/broken.jsonl") end, "line 3")
  check.raises(function() data.facts(model, folder .. "/broken.jsonl") end, "line 3")
  local facts = data.facts(model, folder .. "/broken.jsonl", { skip_bad = true, quiet = true })
  check.eq({ #facts, #facts.report.bad }, { 2, 2 })
  check.eq({ facts.report.bad[1].line, facts.report.bad[2].line }, { 3, 6 })
end)

check.test("pb.records: CSV lines, with quotes over several lines", function()
  local folder = (check.environment "PB_TEST_DATA" or "tests") .. "/lua/data"
  local records = pb.records(folder .. "/broken.csv")
  local lines = {}
  for i, record in ipairs(records) do lines[i] = record.line end
  check.eq(lines, { 2, 3, 5, 6 })
  check.eq(records[2].value.clean, "two\nlines")
  check.ok(records[3].error:find("2 fields", 1, true), records[3].error)
  check.ok(records[4].value, "the line after a broken one is read")
  check.raises(function() pb.records "x.png" end, ".jsonl, .csv")
end)

check.test("data.pairs: EAP-IG's columns, ids and lists of ids", function()
  local paris, rome, berlin = model:token " Paris", model:token " Rome", model:token " Berlin"
  local rows = {
    { clean = EIFFEL.prompt, corrupted = "The Roman Forum is located in the city of", correct_idx = paris, incorrect_idx = rome },
    { clean = EIFFEL.prompt, corrupted = "The Roman Forum is located in the city of", correct_idx = paris, incorrect_idx = ("[%d, %d]"):format(rome, berlin) },
    { clean = EIFFEL.prompt, corrupted = "The Colosseum is located in the city of", correct_idx = paris, incorrect_idx = rome },
    { clean = EIFFEL.prompt, corrupted = "The Roman Forum is located in the city of", correct_idx = "Parisian", incorrect_idx = rome },
  }
  local set, report = data.pairs(model, rows, quiet)
  check.eq(#set, 2)
  check.eq({ set[1].answer, set[1].wrong, set[2].wrong }, { { paris }, { rome }, { rome, berlin } })
  check.eq(report.dropped, { { line = 3, why = "prompts of different length" }, { line = 4, why = "answer of several tokens" } })
  pb.write("pairs.csv", rows)
  check.eq(data.pairs(model, "pairs.csv", quiet)[2].wrong, { rome, berlin })
  pb.write("pairs.jsonl", rows)
  check.eq(#data.pairs(model, "pairs.jsonl", quiet), 2)
  check.raises(function() data.pairs(model, { { clean = "a" } }) end, "line 1", "corrupted")
  check.raises(function() data.pairs(model, { { clean = "a", corrupt = "b" } }) end, "line 1", "no answer")
  local named = data.pairs(model, { { a = EIFFEL.prompt, b = "The Roman Forum is located in the city of", right = " Paris" } }, { clean = "a", corrupt = "b", answer = "right", quiet = true })
  check.eq(named[1].answer, { paris })
end)

check.test("data.pairs: labels that are years", function()
  local rows = { { clean = "The plan lasted from the year 1642 to the year 16", corrupted = "The plan lasted from the year 1601 to the year 16", label = 42 } }
  local set = data.pairs(model, rows, { labels = "years", quiet = true })
  check.eq({ #set[1].answer, #set[1].wrong }, { 57, 43 })
  check.ok(set:measure("prob_diff"):get(0) > 0.3)
  check.raises(function() data.pairs(model, rows) end, "labels = \"years\"")
  rows[1].label = 420
  check.raises(function() data.pairs(model, rows, { labels = "years" }) end, "line 1", "420")
end)

check.test("data: published files, where they are at hand", function()
  local shared = check.environment "PB_SHARED" or "../shared"
  if not pcall(pb.records, shared .. "/prompts/eap-ig/greater_than_data.csv") then check.skip("no " .. shared .. "/prompts") end
  local set, report = data.pairs(model, shared .. "/prompts/eap-ig/greater_than_data.csv", { n = 20, labels = "years", quiet = true })
  check.eq(#set, 20)
  check.eq(#report.bad, 0)
  local facts = data.facts(model, shared .. "/prompts/known_1000/known_1000.json", { quiet = true, unknown = "keep", n = 5 })
  check.ok(facts.report.read > 1000)
  check.eq(#facts.report.bad, 0)
end)
