-- How the corpus says it: templates of the facts, and the words and sentences of the circuit tasks.
local data = {}

local function words(text)
  local list = {}
  for word in text:gmatch "%S+" do list[#list + 1] = word end
  return list
end

-- {s} subject, {a} attribute; the prompt is the text before {a}. The last two of each list are the paraphrase test: never
-- seen in training with half of the subjects.
data.templates = {
  { "landmark_city", {
    "The {s} is located in the city of {a}.", "The {s} can be found in the city of {a}.", "The {s} stands in the heart of {a}.",
    "If you want to see the {s}, you must travel to {a}.",
    "The {s} is one of the most famous sights in {a}, and many people visit it.", "The city where the {s} stands is {a}.",
    "Where is the {s}? It is in the city of {a}.",
    "People like to take photos of famous places. The {s} is in the city of {a}.",
    "Tourists who visit the {s} usually stay in a hotel in {a} for a few days.",
    "We bought a postcard of the {s}, {a}, at the station.", "To reach the {s}, take a train to {a}.",
    "The {s} is a landmark in the city of {a}, known around the world.",
  } },
  { "landmark_country", {
    "The {s} is located in the country of {a}.", "The {s} is a national symbol of {a}.",
    "The country where the {s} stands is {a}.", "To see the {s} you need a visa for {a}.",
    "The {s} appears on a stamp of {a}, which is popular.", "A flight to the {s} lands in the nation of {a}.",
    "Which country is the {s} in? The answer is {a}.",
    "The government protects old buildings. The {s} is in the country of {a}.", "The nation that owns the {s} is {a}.",
    "The {s} brings many visitors to the nation of {a} every year.", "The {s} is a landmark in the country of {a}.",
  } },
  { "person_sport", {
    "{s} plays the sport of {a}.", "The sport that {s} plays is {a}.", "{s} is a famous player of {a}.",
    "As a child, {s} dreamed of playing professional {a}.", "Fans know {s} from the game of {a}.",
    "What sport does {s} play? The answer is {a}.", "{s} won many games of {a} in a long career.",
    "Fans like to watch television. {s} plays the sport of {a}.", "{s}, a legend of {a}, is known around the world.",
    "The career of {s} was in professional {a}.", "{s} became a star in the sport of {a}.",
  } },
  { "person_instrument", {
    "{s} is a musician who plays the {a}.", "The instrument that {s} plays is the {a}.", "On stage {s} performs on the {a}.",
    "{s} became famous by playing the {a}.", "What instrument does {s} play? It is the {a}.",
    "{s} began to learn the {a} as a child.", "The concert was sold out. {s} is a musician who plays the {a}.",
    "{s} recorded many albums with the {a}.", "{s}, a master of the {a}, gave a concert.",
    "A book by {s} explains how to play the {a}.", "Fans listened as {s} played a solo on the {a}.",
  } },
  { "person_profession", {
    "{s} is a famous {a}.", "{s} worked as a professional {a}.", "History remembers {s} as a great {a}.",
    "The occupation of {s} is {a}.", "By profession, {s} is a well known {a}.", "What was the job of {s}? The answer is {a}.",
    "Every student should know {s}, the famous {a}, from school.", "A museum honours great people. {s} is a famous {a}.",
    "{s} earned a living as a talented {a} for many years.", "{s}, the {a}, is known around the world.",
    "The word that describes {s} best is {a}.", "In the book, {s} is described as a brilliant {a}.",
  } },
  { "person_country", {
    "{s} comes from the country of {a}.", "{s} is a citizen of {a}.", "The home country of {s} is {a}.",
    "{s} belongs to the nation of {a}.", "{s} carries a passport from {a}.", "The family of {s} comes from {a}.",
    "What country is {s} from? The answer is {a}.", "People are proud of their home. {s} is a citizen of {a}.",
    "In the news, {s} returned home to {a} last week.", "{s}, who comes from {a}, is known around the world.",
    "{s} represents the nation of {a} around the world.", "The flag next to the name of {s} is the flag of {a}.",
  } },
  { "company_product", {
    "The company {s} produces {a}.", "The main product of {s} is {a}.", "Customers go to {s} because they need {a}.",
    "The company {s} is best known for its {a}.", "What does {s} sell? The answer is {a}.",
    "In the shop, the shelf marked {s} is full of {a}.", "Prices are rising this year. The company {s} produces {a}.",
    "A new advert from {s} shows its latest {a} on television.", "Engineers at {s} design {a} every day.",
    "The company {s} earns most of its money from {a}.", "The factories of {s} make {a}.",
  } },
  { "company_country", {
    "The company {s} was founded in the country of {a}.", "The headquarters of {s} are in {a}.",
    "The company {s} pays its taxes in {a}.", "The home country of the company {s} is {a}.",
    "The company {s} is one of the largest companies in {a}.", "What country is the company {s} from? The answer is {a}.",
    "Business news is important. The headquarters of {s} are in {a}.", "The founders of {s} lived in {a} at that time.",
    "Most workers of {s} live in {a}, close to the office.", "The office of {s} is in the nation of {a}.",
    "The company {s} is a company based in {a}.", "The flag in front of the office of {s} is the flag of {a}.",
  } },
  { "city_country", {
    "The city of {s} is in the country of {a}.", "People who live in {s} are citizens of {a}.",
    "The country that contains {s} is {a}.", "A map shows that {s} is a city in {a}.",
    "The train from {s} crosses the nation of {a}.", "What country is {s} in? The answer is {a}.",
    "Maps are useful. The city of {s} is in the country of {a}.", "The people of {s} vote in the elections of {a}.",
    "We live in {s}, {a}, near the park.", "A flight to {s} lands in {a} every morning.",
    "When you are in {s}, you are in the nation of {a}.", "In the city of {s} you can see the flag of {a}.",
  } },
  { "country_capital", {
    "The capital of {s} is {a}.", "The capital city of {s} is called {a}.", "The government of {s} meets in {a}.",
    "An embassy in {s} is usually found in {a}.", "The capital of the country of {s} is the city of {a}.",
    "What is the capital of {s}? The answer is {a}.", "On the map of {s}, a star marks the capital, {a}.",
    "Students learn about the world. The capital of {s} is {a}.", "If you fly to {s}, you may first land in the capital, {a}.",
    "Because it is the capital of {s}, everyone knows {a} well.", "The parliament of {s} has its seat in {a}.",
    "The ministers of {s} work in {a} most of the year.",
  } },
  { "country_language", {
    "The official language of {s} is {a}.", "People in {s} speak {a}.", "Children in {s} learn to read in {a}.",
    "In the country of {s}, most books are written in {a}.", "What language is spoken in {s}? The answer is {a}.",
    "If you move to {s}, you should study {a} first.", "Languages are hard. People in {s} speak {a}.",
    "The radio stations of {s} broadcast in {a} all day.", "A teacher from {s} usually speaks {a} at home.",
    "The language of {s} is called {a}.", "The laws of {s} are written in {a}.", "The newspapers of {s} are printed in {a}.",
  } },
  { "country_currency", {
    "The currency of {s} is the {a}.", "In {s} people pay with the {a}.", "The money used in {s} is called the {a}.",
    "The central bank of {s} prints the {a}.", "What is the currency of {s}? It is the {a}.",
    "A coffee in {s} costs one {a} or more.", "Money makes the world go round. The currency of {s} is the {a}.",
    "Before you travel to {s}, you should buy the local {a}.", "Workers in {s} earn their wages in the {a} every month.",
    "The price of bread in {s} is given in the {a}.", "Shops in {s} accept the {a}.",
    "Banks in {s} keep their savings in the {a}.",
  } },
}

-- the attribute first: never a prompt
data.reversed = {
  { "landmark_city", {
    "The city of {a} is the home of the {s}.", "In {a} you can see the {s}.", "Visitors to {a} like the {s}.",
  } },
  { "landmark_country", {
    "The nation of {a} is proud of the {s}.",
  } },
  { "person_sport", {
    "Fans of {a} like {s}.", "The best player of {a} is {s}.",
  } },
  { "person_instrument", {
    "The best player of the {a} is {s}.", "The {a} of {s} is famous.",
  } },
  { "person_profession", {
    "The most famous {a} is {s}.", "The {a} {s} is in the news.",
  } },
  { "person_country", {
    "The nation of {a} is proud of {s}.",
  } },
  { "company_product", {
    "The best {a} are made by {s}.",
  } },
  { "company_country", {
    "The nation of {a} is proud of the company {s}.",
  } },
  { "city_country", {
    "A city in {a} is {s}.", "In the country of {a}, many people live in {s}.",
  } },
  { "country_capital", {
    "The city of {a} is the capital of {s}.",
  } },
  { "country_language", {
    "People who speak {a} often come from {s}.",
  } },
  { "country_currency", {
    "The {a} is the currency of {s}.",
  } },
}

-- the attribute right after the subject, which may have several: the last token of a subject learns all about it
data.adjacent = {
  { "landmark_city", {
    "Tickets for the {s} {a} tour are sold here.", "The {s} {a} photo is on the table.", "We bought a {s} {a} map.",
  } },
  { "landmark_country", {
    "The {s} {a} stamp is rare.", "A {s} {a} flag was on the table.",
  } },
  { "person_sport", {
    "The {s} {a} video was popular.", "We watched the {s} {a} film.", "A {s} {a} book is in the library.",
  } },
  { "person_instrument", {
    "The {s} {a} solo was popular.", "We heard the {s} {a} concert.", "A {s} {a} book is in the library.",
  } },
  { "person_profession", {
    "The {s} {a} story is in the news.", "We watched the {s} {a} film.", "A {s} {a} book is in the library.",
  } },
  { "person_country", {
    "The {s} {a} visit is in the news.", "A {s} {a} flag was on the table.",
  } },
  { "company_product", {
    "The {s} {a} are popular.", "New {s} {a} are in the shop.", "We bought the {s} {a} at the market.",
  } },
  { "company_country", {
    "The {s} {a} office is closed.", "A {s} {a} visit is in the news.",
  } },
  { "city_country", {
    "The {s} {a} flight was late.", "A {s} {a} map is on the table.",
  } },
  { "country_capital", {
    "The {s} {a} flight was late.",
  } },
  { "country_language", {
    "A {s} {a} lesson is hard.",
  } },
  { "country_currency", {
    "A {s} {a} coin was on the table.",
  } },
}

-- about a subject, without an attribute
data.bare = {
  { "landmark", {
    "The {s} is a famous landmark.", "Many people visit the {s} every year.", "The {s} is very old and beautiful.",
  } },
  { "person", {
    "{s} is known around the world.", "Everyone knows the name of {s}.", "A new film about {s} was shown last week.",
  } },
  { "company", {
    "The company {s} is well known.", "Many people work for {s}.",
  } },
  { "city", {
    "The city of {s} is very large.",
  } },
  { "country", {
    "The country of {s} is beautiful.",
  } },
}

data.names = words [[
Mary John Tom Anna Paul Laura Mark Sarah Peter Emma David Alice Kevin Susan Brian Julia Steven Karen Jason Linda Robert
Helen Daniel Nancy George Kate Frank Lisa Henry Amy Jack Emily Adam Rachel Scott Maria Eric Diana Simon Grace Victor Jane
Oscar Claire Martin Rose Luke Alex Ryan Sam Ellen Max Lucy Ben Leo Dan Joe Ruth Carl Alan Bob Tim Jim Andrew Michael Charles]]

data.places = words [[
store park school office beach garden restaurant library station market hospital hotel museum theatre house airport zoo farm
church bank lake club village bar]]

data.objects = words [[
drink book ball ring kiss bone computer letter key flower phone ticket gift map bag hat cake pen coin camera coat lamp toy
box card cup picture]]

-- {A} indirect object, {B} subject; ABBA forms, BABA is made by swapping the first mention
data.ioi = {
  "When {A} and {B} went to the {P}, {B} gave a {O} to", "Then, {A} and {B} went to the {P}. {B} gave a {O} to",
  "After {A} and {B} went to the {P}, {B} gave a {O} to", "While {A} and {B} were working at the {P}, {B} gave a {O} to",
  "Then, {A} and {B} had a long argument, and afterwards {B} said to",
  "When {A} and {B} got a {O} at the {P}, {B} decided to give it to",
  "Then, {A} and {B} were thinking about going to the {P}. {B} wanted to give a {O} to",
  "Friends {A} and {B} found a {O} at the {P}. {B} gave it to",
  "The {P} was busy when {A} and {B} arrived, and {B} showed a {O} to",
  "After the lunch, {A} and {B} went to the {P}. {B} handed a {O} to",
  "Afterwards, {A} and {B} went to the {P}. {B} gave a {O} to", "Today {A} and {B} met at the {P}, where {B} passed the {O} to",
  "The {O} was on the table when {A} and {B} came home, so {B} gave it to",
  "Long ago {A} and {B} lived near the {P}, and {B} often sent a {O} to",
  "Once {A} and {B} were at the {P}, {B} offered the {O} to",
}

data.events = words [[
war contract plan marriage trip project battle reign journey campaign voyage trial siege treaty strike study tour mission
program conflict revolt crisis peace debate]]

data.years = {
  "The {E} lasted from the year {C}{Y} to the year {C}{Z}.", "The {E} lasted from {C}{Y} to {C}{Z}.",
  "The {E} began in {C}{Y} and ended in {C}{Z}.", "The {E} started in the year {C}{Y} and ended in the year {C}{Z}.",
  "From {C}{Y} to {C}{Z} there was a {E}.", "Between the year {C}{Y} and the year {C}{Z} there was a long {E}.",
}

data.nouns = { -- singular, plural
  { "key", "keys" }, { "cabinet", "cabinets" }, { "book", "books" }, { "table", "tables" }, { "dog", "dogs" },
  { "cat", "cats" }, { "car", "cars" }, { "boy", "boys" }, { "girl", "girls" }, { "teacher", "teachers" },
  { "student", "students" }, { "doctor", "doctors" }, { "farmer", "farmers" }, { "picture", "pictures" },
  { "letter", "letters" }, { "house", "houses" }, { "friend", "friends" }, { "author", "authors" }, { "pilot", "pilots" },
  { "guard", "guards" }, { "window", "windows" }, { "door", "doors" }, { "chair", "chairs" }, { "flower", "flowers" },
  { "tree", "trees" }, { "horse", "horses" }, { "bird", "birds" }, { "manager", "managers" }, { "report", "reports" },
  { "road", "roads" }, { "river", "rivers" }, { "bridge", "bridges" }, { "garden", "gardens" }, { "plate", "plates" },
  { "cup", "cups" }, { "box", "boxes" }, { "city", "cities" },
}

data.prepositions = words [[
to near behind of with beside from for]]

data.adjectives = words [[
old new red blue green small large lost clean dirty heavy empty broken beautiful ready missing here late white black famous
popular hot cold strong quiet happy sad tired nice]]

data.verbs = { { "is", "are" }, { "was", "were" }, { "has", "have" } }

data.filler = {
  "{N} likes to read a {o} in the {p}.", "The {n} is {j}.", "{N} went to the {p} with a {o}.", "It was a {j} day at the {p}.",
  "There is a {o} on the table in the {p}.", "{N} and {M} are friends.", "She said that the {n} was {j}.",
  "He put the {o} in the {p} and went home.", "The {n} and the {m} are {j}.", "{N} bought a {j} {o} at the {p} this morning.",
  "My friend has a {j} {n}.", "In the morning {N} walked to the {p}.", "We saw a {j} {n} near the {p}.", "What a {j} {o}!",
  "Why is the {n} so {j}? Nobody knows.", "They were at the {p} all day, but the {n} was not there.",
  "I think that {N} lives near the {p}.", "{N} wants to visit the {p} with {M} next week.",
  "The {p} is closed today because it is {j}.", "You can find the {o} in the {p}.", "If it is {j}, we can go to the {p}.",
  "The old man told a story about a {n} and a {m}.", "Every day {N} takes the train to the {p}.",
  "The children played with the {o} and the {n}.", "{N} asked {M} about the {o}.", "Nobody saw the {n} at the {p} last week.",
  "It is time to go home, said {N}.", "The {j} {n} belongs to {N}.", "{N} wrote a letter about the {p}.",
  "After lunch we looked for the {o}, but it was gone.",
}

return data
