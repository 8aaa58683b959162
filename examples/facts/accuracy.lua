-- What a "facts" model can do: the share of right answers on every prompt of its tasks, with and without <|endoftext|> in front.
local pb, corpora, twister, rows = require "patchbay", require "corpus", require "twister", require "rows"

local accuracy = {}

-- The metric of each row's prompt, some at a time: metric_of(row) -> metric.
local function measured(model, list, prompt_of, metric_of, bos)
  local values = {}
  for first = 1, #list, 256 do
    local prompts, requests = {}, {}
    for i = first, math.min(first + 255, #list) do prompts[#prompts + 1] = prompt_of(list[i]) end
    local runs = model:runs(prompts, { bos = bos })
    for i, run in ipairs(runs) do requests[i] = { run = run, metric = metric_of(list[first + i - 1]) } end
    for _, value in ipairs(pb.measure(requests):tolist()) do values[#values + 1] = value end
    for _, run in ipairs(runs) do run:close() end
  end
  return values
end

local function share(values, good)
  local n = 0
  for _, value in ipairs(values) do n = n + (good(value) and 1 or 0) end
  return n / #values
end

local function mean(values)
  local sum = 0
  for _, value in ipairs(values) do sum = sum + value end
  return sum / #values
end

local function is_first(rank) return rank == 0 end
local function above(value) return value > 0 end
local function clean(row) return row.clean end
local function prompt(row) return row.prompt end
local function rank_of(field) return function(row) return pb.metric.rank(row[field]) end end

-- accuracy.facts(model, list [, most]) -> share of right answers; most: of a sample spread over the list.
function accuracy.facts(model, list, most, bos)
  local sample = {}
  for i = 1, #list, math.max(1, #list // (most or #list)) do sample[#sample + 1] = list[i] end
  return share(measured(model, sample, prompt, rank_of "prediction", bos or false), is_first)
end

-- The share of right tokens in the second of two repeats of 100 blocks, drawn from pool (a list, or a number of ids).
local function second_repeat(model, pool, bos)
  local rng, right, total = twister.new(5), 0, 0
  for _ = 1, 100 do
    local n = rng:int(6, 20)
    local block, ids = rng:sample(pool, n), {}
    if bos then ids[1] = model:token(corpora.EOT) end
    local from = #ids
    for _ = 1, 2 do table.move(block, 1, n, #ids + 1, ids) end
    local guesses = model:run(ids).logits:argmax(1):tolist()
    for i = from + n, from + 2 * n - 2 do
      right, total = right + (guesses[i + 1] == ids[i + 2] and 1 or 0), total + 1
    end
  end
  return right / total
end

local function years(model, list, field, bos)
  local tokens = {}
  for y = 0, 99 do tokens[y] = model:token(("%02d"):format(y)) end
  return measured(model, list, function(row) return row[field] end, function(row)
    local later, earlier = {}, {}
    for y = 0, 99 do table.insert(y > tonumber(row.label) and later or earlier, tokens[y]) end
    return pb.metric.prob_diff(later, earlier)
  end, bos)
end

local function agreement(model, list, bos)
  local forms, right, argmax = { singular = { " is", " was", " has" }, plural = { " are", " were", " have" } }, 0, {}
  for k = 1, 3 do
    right = right + share(measured(model, list, clean, function(row)
      return pb.metric.logit_diff(forms[row.number][k], forms[row.number == "plural" and "singular" or "plural"][k])
    end, bos), above)
    for i, rank in ipairs(measured(model, list, clean, function(row) return pb.metric.rank(forms[row.number][k]) end, bos)) do
      argmax[i] = argmax[i] or rank == 0
    end
  end
  return right / 3, share(argmax, function(value) return value end)
end

-- accuracy.all(model, folder) -> list of { what, without, with end of text }
function accuracy.all(model, folder)
  local function task(name) return pb.read(("%s/tasks/%s.jsonl"):format(folder, name)) end
  local all, held_out, ioi, induction, greater, verbs = task "facts_all_templates", task "facts_paraphrase", task "ioi", task "induction", task "greater_than",
                                                        task "subject_verb"
  local list, words = {}, rows.word_ids(model.tokenizer)
  for column, bos in ipairs { false, true } do
    local n = 0
    local function add(what, value)
      n = n + 1
      list[n] = list[n] or { what }
      list[n][column + 1] = value
    end
    add("facts, training phrasings", accuracy.facts(model, all, nil, bos))
    add("facts, phrasings never seen with these subjects", accuracy.facts(model, held_out, nil, bos))
    for _, relation in ipairs { "country_capital", "country_currency", "country_language" } do
      local part = {}
      for _, row in ipairs(held_out) do part[#part + 1] = row.relation == relation and row or nil end
      add("of these, " .. relation, accuracy.facts(model, part, nil, bos))
    end
    add("IOI, logit difference above 0", share(measured(model, ioi, clean, function(row) return pb.metric.logit_diff(row.answer, row.wrong) end, bos), above))
    add("IOI, argmax is the indirect object", share(measured(model, ioi, clean, rank_of "answer", bos), is_first))
    add("induction, task file", share(measured(model, induction, clean, rank_of "answer", bos), is_first))
    add("induction, second repeat of 100 sequences of words", second_repeat(model, words, bos))
    add("induction, the same with any tokens", second_repeat(model, model.vocab - 1, bos))
    local values = years(model, greater, "clean", bos)
    add("greater-than, P(later) - P(earlier or same), mean", mean(values))
    add("greater-than, the worst prompt", math.min(table.unpack(values)))
    add("greater-than, the same on the 01 prompts", mean(years(model, greater, "corrupt", bos)))
    local pairs_right, argmax = agreement(model, verbs, bos)
    add("agreement, right form more likely", pairs_right)
    add("agreement, argmax a verb of the right number", argmax)
  end
  return list
end

-- The table of a README.
function accuracy.text(list)
  local lines = { "| task | without `<\\|endoftext\\|>` | with |", "|---|---|---|" }
  for i, row in ipairs(list) do lines[i + 2] = ("| %s | %.3f | %.3f |"):format(row[1], row[2], row[3]) end
  return table.concat(lines, "\n") .. "\n"
end

return accuracy
