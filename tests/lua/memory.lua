-- Every allocation of Lua's own fails once, in every binding of models, runs, patches, metrics and figures: each time an error
-- says so, nothing leaks, nothing breaks.
local pb, check = require "patchbay", require "patchbay.check"

local model = pb.load "facts"
local clean = model:run "The Eiffel Tower is located in the city of"
local corrupt = clean:fork "The Roman Forum is located in the city of"
local metric = pb.metric.logit_diff(" Paris", " Rome")

local function test(name, fn)
  check.test("out of Lua memory: " .. name, function()
    check.ok(check.exhaust(fn, "lua", 100000) >= 1)
  end)
end

test("load", function() pb.load("facts"):close() end)
test("run", function() model:run("The Eiffel Tower"):close() end)
test("runs", function() for _, run in ipairs(model:runs { "The", { 1, 2 } }) do run:close() end end)
test("generate", function() model:generate { "The", tokens = 2, stop = { " of" }, patches = { { site = "z", layer = 2, zero = true } } } end)
test("values", function() clean:value({ site = "z", layer = 2, pos = 1 }):close() end)
test("properties", function() return clean.labels, clean.tokens, clean.text, tostring(clean) end)
test("fork", function() clean:fork("The Roman Forum is located in the city of"):close() end)
test("a fork of another length", function() pcall(clean.fork, clean, "The") end)
test("find", function() clean:find("Eiffel", { which = "all" }) end)
test("metric", function() metric(clean) end)
test("a new metric", function() pb.metric.logit_diff({ " Paris", 3 }, " Rome", { pos = { 1, 2 } }):close() end)
test("a metric of one's own", function() pb.metric.fn(function(logits) return logits:get(0, 1) end)(clean) end)
test("patched", function()
  corrupt:patched({ { site = "z", layer = 1, from = clean }, { site = "z", layer = 2, value = clean:value("z", 2) },
                    { site = "mlp_out", layer = 1, fn = function(act, at) return act + clean[at] end },
                    { site = "resid_pre", layer = 1, pos = 3, mean = { clean, corrupt } } }):close()
end)
test("measure", function()
  corrupt:measure({ { { site = "z", layer = { 1, 2 }, from = clean } }, {},
                    { { site = "mlp_out", layer = 1, fn = function(act, at) return act + clean[at] end } } }, metric):close()
end)
test("pb.measure", function()
  pb.measure({ { run = clean, metric = metric },
               { run = corrupt, metric = pb.metric.nll(), patches = { { site = "z", layer = 1, head = 2, noise = { std = 1 } } } } }):close()
end)
test("capture", function() corrupt:capture({ { { site = "z", layer = 1, from = clean } }, {} }, { "logits", "blocks.1.hook_resid_pre" }) end)
test("figure", function()
  local figure = pb.figure { title = "x", facts = { a = "b" } }
  figure:heatmap { values = pb.zeros(2, 2), row_labels = { "a", "b" }, marked_rows = { 0 } }
  figure:lines { series = { { y = { 1, 2 }, x = { 1, 2 }, label = "a" } } }
  figure:bars { values = { { 1, 2 } } }
  figure:scatter { x = { 1, 2 }, y = { 1, 2 }, classes = { 1, 2 }, class_labels = { "a", "b" } }
  figure:text()
  figure:close()
end)
test("tokens", function() return model:tokens "Eiffel Tower", model.tokenizer:piece(3), model:decode { 1, 2 } end)
