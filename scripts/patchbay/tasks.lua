-- Tasks of the field as sets of matched pairs: clean and corrupted prompts of one length, one-token answers, positions by name. Words
-- that are not one token of the model are not used; every pair is checked, and what had to be dropped is counted. Seeded: the same seed
-- gives the same prompts on every machine.
local pb = require "patchbay"
local words, draw = require "patchbay.words", require "patchbay.draw"

local tasks = {}
local build, one_token, pick, position = draw.pairs, draw.one_token, draw.pick, draw.position

-- tasks.ioi(model, { n =, seed =, corrupt = "swap" | "abc" | "s2", template =, bos = }): indirect object identification (Wang et al. 2022).
-- Answer: the name said once (IO); wrong: the one said twice (S). Positions: IO, S1, S1_next, S2, end. Corrupt: the second subject swapped
-- for IO; three new names (ABC); the second subject a third name.
function tasks.ioi(model, given)
  local o = pb.options(given, { "seed", "bos", "template", n = 20, corrupt = "swap" }, "tasks.ioi")
  pb.one_of(o.corrupt, { "swap", "abc", "s2" }, "tasks.ioi: corrupt")
  if o.template and not words.ioi[o.template] then pb.fail("tasks.ioi: template must be 1 to %d, got %s", #words.ioi, tostring(o.template)) end
  local names = one_token(model, words.names, 8, "tasks.ioi, names")
  local places, objects = one_token(model, words.places, 2, "tasks.ioi, places"), one_token(model, words.objects, 2, "tasks.ioi, objects")
  return build(model, "ioi", o, function(random)
    local template = words.ioi[o.template or random(#words.ioi)]
    local io = pick(random, names)
    local s = pick(random, names, { io })
    local third = pick(random, names, { io, s })
    local a, b = pick(random, names, { io, s, third }), nil
    b = pick(random, names, { io, s, third, a })
    local first_io, place, object = random(2) == 1, pick(random, places), pick(random, objects)
    local function text(x, y, second)
      local fill = { A = first_io and x or y, B = first_io and y or x, S = second, P = place, O = object }
      return (template:gsub("%[(%u)%]", fill))
    end
    local corrupt = o.corrupt == "swap" and text(io, s, io) or o.corrupt == "s2" and text(io, s, third) or text(a, b, third)
    return { clean = text(io, s, s), corrupt = corrupt, answer = " " .. io, wrong = " " .. s, info = { order = first_io and "ABBA" or "BABA" } },
      function(run)
        local s1 = position(run, " " .. s, "first")
        return { IO = position(run, " " .. io, "first"), S1 = s1, S1_next = s1 + 1, S2 = position(run, " " .. s, "last"), ["end"] = #run - 1 }
      end
  end)
end

-- tasks.greater_than(model, { n =, seed = }): "lasted from the year 1732 to the year 17" (Hanna et al. 2023). Answers: all years above;
-- wrong: the others. Use the metric prob_diff. Corrupt: the year 01. Positions: year, end.
function tasks.greater_than(model, given)
  local o = pb.options(given, { "seed", "bos", n = 20 }, "tasks.greater_than")
  local years = require "patchbay.data".years
  local nouns = one_token(model, words.spans, 2, "tasks.greater_than, nouns")
  return build(model, "greater_than", o, function(random)
    local noun, century, year = pick(random, nouns), 10 + random(8), 1 + random(97)
    local function text(y) return ("The %s lasted from the year %d%02d to the year %d"):format(noun, century, y, century) end
    local above, rest = years(model, year)
    if #above == 0 or #rest == 0 then pb.fail("tasks.greater_than: numbers of two digits are no tokens of %s", model.name) end
    return { clean = text(year), corrupt = text(1), answer = above, wrong = rest, info = { year = year } },
      function(run) return { year = position(run, ("%02d"):format(year), "first"), ["end"] = #run - 1 } end
  end)
end

-- tasks.induction(model, { n =, seed =, length = 12, repeated = 6, corrupt = "match" | "target", tokens = }): random words, then their beginning again; the
-- answer is the word that came next. Corrupt, the first time: "match": the word that is matched, so that keys fail; "target": the
-- answer, so that values differ. Positions: first (where the last token came before), target, end.
function tasks.induction(model, given)
  local o = pb.options(given, { "seed", "bos", "repeated", "tokens", n = 20, length = 12, corrupt = "match" }, "tasks.induction")
  pb.one_of(o.corrupt, { "match", "target" }, "tasks.induction: corrupt")
  local again, ids = o.repeated or o.length // 2, words.pool(model, o.tokens)
  if again < 1 or again >= o.length then pb.fail("tasks.induction: repeated must be 1 to length - 1 (%d), got %s", o.length - 1, tostring(again)) end
  if #ids <= o.length then pb.fail("tasks.induction: length %d needs more different words than %s has (%d)", o.length, model.name, #ids) end
  local start = model.has_tokenizer and model:encode("", { bos = o.bos }) or {}
  return build(model, "induction", o, function(random)
    local used, sequence = {}, {}
    while #sequence <= o.length do -- one more: the corrupted word
      local id = ids[random(#ids)]
      if not used[id] then used[id], sequence[#sequence + 1] = true, id end
    end
    local other = table.remove(sequence)
    local clean = { table.unpack(start) }
    for i = 1, o.length + again do clean[#clean + 1] = sequence[(i - 1) % o.length + 1] end
    local corrupt, target = { table.unpack(clean) }, #start + again
    corrupt[o.corrupt == "match" and target or target + 1] = other
    return { clean = clean, corrupt = corrupt, answer = clean[target + 1], wrong = other },
      function(run) return { first = target - 1, target = target, ["end"] = #run - 1 } end
  end)
end

-- tasks.facts(model, { n =, seed = }): facts that the model knows, corrupted by another subject. Positions: subject, subject_last, after.
function tasks.facts(model, given)
  local o = pb.options(given, { "seed", "bos", n = 20 }, "tasks.facts")
  return (require "patchbay.data".facts(model, "facts", { n = o.n, seed = o.seed, bos = o.bos, quiet = true }):pairs { seed = o.seed, quiet = true })
end

-- tasks.agreement(model, { n =, seed = }): "The keys to the cabinet" are / is. Corrupt: the subject in the other number.
-- Positions: subject, attractor, end.
function tasks.agreement(model, given)
  local o = pb.options(given, { "seed", "bos", n = 20 }, "tasks.agreement")
  local nouns = {}
  for _, noun in ipairs(words.nouns) do
    if pcall(model.token, model, " " .. noun[1]) and pcall(model.token, model, " " .. noun[2]) then nouns[#nouns + 1] = noun end
  end
  if #nouns < 4 then pb.fail("tasks.agreement: only %d nouns are one token of %s in both numbers", #nouns, model.name) end
  return build(model, "agreement", o, function(random)
    local i, j, number, other = random(#nouns), random(#nouns), random(2), random(2)
    while j == i do j = random(#nouns) end
    local verbs, preposition = words.verbs[random(#words.verbs)], words.prepositions[random(#words.prepositions)]
    local function text(n) return ("The %s %s the %s"):format(nouns[i][n], preposition, nouns[j][other]) end
    return { clean = text(number), corrupt = text(3 - number), answer = verbs[number], wrong = verbs[3 - number], info = { attractor_differs = other ~= number } },
      function(run) return { subject = position(run, " " .. nouns[i][number], "first"), attractor = #run - 1, ["end"] = #run - 1 } end
  end)
end

-- tasks.docstring(model, { n =, seed = }): the third argument's name after two ":param" lines (Heimersheim and Janiak 2023). Corrupt: that
-- argument has another name in the definition. Positions: definition (of the answer), second (the second name in the docstring), end.
function tasks.docstring(model, given)
  local o = pb.options(given, { "seed", "bos", n = 20 }, "tasks.docstring")
  local list = one_token(model, words.objects, 16, "tasks.docstring, words")
  return build(model, "docstring", o, function(random)
    local w = {}
    for i = 1, 10 do w[i] = pick(random, list, w) end
    local function text(c)
      return ("def %s(self, %s, %s, %s, %s):\n    \"\"\"%s %s\n\n    :param %s: %s\n    :param %s: %s\n    :param"):format(
        w[1], w[2], w[3], c, w[4], w[5], w[6], w[2], w[7], w[3], w[8])
    end
    return { clean = text(w[9]), corrupt = text(w[10]), answer = " " .. w[9], wrong = " " .. w[10] },
      function(run) return { definition = position(run, " " .. w[9], "first"), second = position(run, " " .. w[3], "last"), ["end"] = #run - 1 } end
  end)
end

return tasks
