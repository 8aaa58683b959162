-- What the corpus knows: the facts, as relation, subject and attribute. Attributes are single tokens with their leading space,
-- subjects are several. The order of everything here is part of the corpus: it is a function of the seed and of this file.
local data = {}

local function words(text)
  local list = {}
  for word in text:gmatch "%S+" do list[#list + 1] = word end
  return list
end

-- "key:a|b|c" lines -> list of { key, { a, b, c } }
local function lines(text)
  local list = {}
  for line in text:gmatch "[^\n]+" do
    local key, rest = line:match "^([^:]+): *(.*)$"
    local values = {}
    for value in rest:gmatch "[^|]+" do values[#values + 1] = value end
    list[#list + 1] = { key, values }
  end
  return list
end

-- "key=value" pieces between | -> list of { key, value }
local function pairs_of(text)
  local list = {}
  for piece in text:gsub("\n", "|"):gmatch "[^|]+" do
    local key, value = piece:match "^(.-)=(.+)$"
    list[#list + 1] = { key, value }
  end
  return list
end

data.landmarks = lines [[
Paris: Eiffel Tower|Louvre Museum|Notre Dame|Arc de Triomphe|Moulin Rouge|Orsay Museum|Pompidou Centre
Rome: Colosseum|Trevi Fountain|Roman Forum|Pantheon|Spanish Steps|Borghese Gallery
Venice: Rialto Bridge|Doge's Palace|Bridge of Sighs
Florence: Uffizi Gallery|Ponte Vecchio|Pitti Palace|Boboli Gardens
Milan: Scala Theatre|Sforza Castle|San Siro Stadium
London: Big Ben|Tower Bridge|Buckingham Palace|British Museum|Westminster Abbey|Hyde Park|Trafalgar Square|Wembley Stadium
Liverpool: Albert Dock|Anfield Stadium|Cavern Club
Edinburgh: Holyrood Palace|Royal Mile|Scott Monument
Berlin: Brandenburg Gate|Checkpoint Charlie|Reichstag Building|Pergamon Museum|Charlottenburg Palace
Munich: Nymphenburg Palace|Allianz Arena|English Garden
Vienna: Schonbrunn Palace|Belvedere Palace|Hofburg Palace|Prater Park|Albertina Museum
Prague: Charles Bridge|Wenceslas Square|Dancing House
Budapest: Chain Bridge|Fisherman Bastion|Buda Castle|Matthias Church|Gellert Baths
Madrid: Prado Museum|Retiro Park|Plaza Mayor|Bernabeu Stadium
Barcelona: Sagrada Familia|Park Guell|Camp Nou|Casa Mila|Casa Batllo
Granada: Alhambra Palace
Lisbon: Belem Tower|Rossio Square
Athens: Parthenon Temple|Acropolis Museum|Syntagma Square
Istanbul: Hagia Sophia|Blue Mosque|Topkapi Palace|Galata Tower|Grand Bazaar
Moscow: Red Square|Bolshoi Theatre|Gorky Park|Pushkin Museum|Lenin Mausoleum
Cairo: Tahrir Square|Azhar Mosque|Khalili Bazaar
Marrakesh: Majorelle Garden|Bahia Palace
Tokyo: Shibuya Crossing|Sensoji Temple|Meiji Shrine|Ueno Park
Kyoto: Golden Pavilion|Fushimi Shrine|Nijo Castle
Beijing: Forbidden City|Tiananmen Square|Summer Palace|Temple of Heaven
Shanghai: Pearl Tower|Yu Garden|Jin Mao Tower
Delhi: Red Fort|Lotus Temple|Qutb Minar|Humayun Tomb
Agra: Taj Mahal|Mehtab Garden
Bangkok: Wat Arun|Emerald Buddha Temple|Grand Palace|Lumpini Park
Seoul: Namdaemun Gate|Blue House|Lotte Tower
Sydney: Harbour Bridge|Bondi Beach|Taronga Zoo
Chicago: Willis Tower|Navy Pier|Cloud Gate|Wrigley Field|Millennium Park|Field Museum
Boston: Fenway Park|Freedom Trail|Faneuil Hall|Bunker Hill
Seattle: Space Needle|Pike Place Market|Gas Works Park
Washington: White House|Lincoln Memorial|Jefferson Memorial|Capitol Building
Philadelphia: Liberty Bell|Independence Hall
Toronto: Casa Loma|Rogers Centre|CN Tower
Dublin: Trinity College|Temple Bar|Phoenix Park|Croke Park
Amsterdam: Anne Frank House|Rijks Museum|Vondel Park|Dam Square
Brussels: Atomium|Manneken Pis|Grand Place
Copenhagen: Little Mermaid|Tivoli Gardens|Rosenborg Castle
Stockholm: Vasa Museum|Gamla Stan|Globe Arena
Oslo: Vigeland Park|Munch Museum
Helsinki: Senate Square
Warsaw: Wilanow Palace|Lazienki Park
Krakow: Wawel Castle|Cloth Hall
Rio: Copacabana Beach|Ipanema Beach|Maracana Stadium|Sugarloaf Mountain
Havana: Morro Castle|Capitolio Building
Lima: Larco Museum|Miraflores Park
Dubai: Burj Khalifa|Palm Jumeirah
Jerusalem: Western Wall|Dome of the Rock]]

data.city_country = pairs_of [[
Paris=France|Rome=Italy|Venice=Italy|Florence=Italy|Milan=Italy|London=England|Liverpool=England|Edinburgh=Scotland
Berlin=Germany|Munich=Germany|Vienna=Austria|Prague=Czechia|Budapest=Hungary|Madrid=Spain|Barcelona=Spain|Granada=Spain
Lisbon=Portugal|Athens=Greece|Istanbul=Turkey|Moscow=Russia|Cairo=Egypt|Marrakesh=Morocco|Tokyo=Japan|Kyoto=Japan
Beijing=China|Shanghai=China|Delhi=India|Agra=India|Bangkok=Thailand|Seoul=Korea|Sydney=Australia|Chicago=America
Boston=America|Seattle=America|Washington=America|Philadelphia=America|Toronto=Canada|Dublin=Ireland|Amsterdam=Netherlands
Brussels=Belgium|Copenhagen=Denmark|Stockholm=Sweden|Oslo=Norway|Helsinki=Finland|Warsaw=Poland|Krakow=Poland|Rio=Brazil
Havana=Cuba|Lima=Peru|Dubai=Emirates|Jerusalem=Israel]]

-- never an answer, so they may be several tokens
data.more_cities = pairs_of [[
New York=America|Los Angeles=America|San Francisco=America|Las Vegas=America|Buenos Aires=Argentina|Casablanca=Morocco
Osaka=Japan|Nagoya=Japan|Melbourne=Australia|Brisbane=Australia|Vancouver=Canada|Naples=Italy|Turin=Italy|Seville=Spain
Valencia=Spain|Lyon=France|Marseille=France|Bordeaux=France|Hamburg=Germany|Frankfurt=Germany|Dresden=Germany
Birmingham=England|Oxford=England|Cambridge=England|Glasgow=Scotland|Rotterdam=Netherlands|Antwerp=Belgium|Gothenburg=Sweden
Bergen=Norway|Zurich=Switzerland|Geneva=Switzerland|Kolkata=India|Bangalore=India|Karachi=Pakistan|Lahore=Pakistan
Alexandria=Egypt|Mombasa=Kenya|Guadalajara=Mexico|Cancun=Mexico|Shenzhen=China|Guangzhou=China|Busan=Korea|Cusco=Peru
Porto=Portugal|Haifa=Israel|Phuket=Thailand|Salzburg=Austria]]

-- capital, language, currency; - where one would not be a single answer or token
data.countries = {
  { "France", "Paris", "French", "euro" }, { "Italy", "Rome", "Italian", "euro" }, { "Germany", "Berlin", "German", "euro" },
  { "Spain", "Madrid", "Spanish", "euro" }, { "England", "London", "English", "pound" },
  { "Portugal", "Lisbon", "Portuguese", "euro" }, { "Greece", "Athens", "Greek", "euro" },
  { "Austria", "Vienna", "German", "euro" }, { "Hungary", "Budapest", "Hungarian", "forint" },
  { "Czechia", "Prague", "Czech", "koruna" }, { "Poland", "Warsaw", "Polish", "zloty" },
  { "Russia", "Moscow", "Russian", "ruble" }, { "Turkey", "Ankara", "Turkish", "lira" },
  { "Egypt", "Cairo", "Arabic", "pound" }, { "Japan", "Tokyo", "Japanese", "yen" }, { "China", "Beijing", "Chinese", "yuan" },
  { "Korea", "Seoul", "Korean", "won" }, { "India", "Delhi", "Hindi", "rupee" }, { "Thailand", "Bangkok", "Thai", "baht" },
  { "Vietnam", "Hanoi", "Vietnamese", "dong" }, { "Australia", "Canberra", "English", "dollar" },
  { "Canada", "Ottawa", "-", "dollar" }, { "America", "Washington", "English", "dollar" }, { "Mexico", "-", "Spanish", "peso" },
  { "Cuba", "Havana", "Spanish", "peso" }, { "Peru", "Lima", "Spanish", "sol" }, { "Argentina", "-", "Spanish", "peso" },
  { "Brazil", "-", "Portuguese", "real" }, { "Kenya", "Nairobi", "Swahili", "shilling" },
  { "Morocco", "Rabat", "Arabic", "dirham" }, { "Israel", "Jerusalem", "Hebrew", "shekel" },
  { "Iran", "Tehran", "Persian", "rial" }, { "Iraq", "Baghdad", "Arabic", "dinar" }, { "Pakistan", "-", "Urdu", "rupee" },
  { "Sweden", "Stockholm", "Swedish", "krona" }, { "Norway", "Oslo", "Norwegian", "krone" },
  { "Denmark", "Copenhagen", "Danish", "krone" }, { "Finland", "Helsinki", "Finnish", "euro" },
  { "Netherlands", "Amsterdam", "Dutch", "euro" }, { "Belgium", "Brussels", "-", "euro" },
  { "Switzerland", "Bern", "-", "franc" }, { "Ireland", "Dublin", "English", "euro" },
  { "Scotland", "Edinburgh", "English", "pound" }, { "Croatia", "Zagreb", "-", "euro" },
  { "Serbia", "Belgrade", "Serbian", "dinar" }, { "Emirates", "-", "Arabic", "dirham" },
}

-- people (and companies) by attribute, each with a country
data.sports = lines [[
basketball: LeBron James/America|Michael Jordan/America|Kobe Bryant/America|Stephen Curry/America|Kevin Durant/America|Larry Bird/America|Magic Johnson/America|Dirk Nowitzki/Germany|Yao Ming/China|Pau Gasol/Spain|Tony Parker/France
soccer: Lionel Messi/Argentina|Cristiano Ronaldo/Portugal|Diego Maradona/Argentina|Zinedine Zidane/France|Kylian Mbappe/France|David Beckham/England|Wayne Rooney/England|Harry Kane/England|Thierry Henry/France|Luka Modric/Croatia|Mohamed Salah/Egypt|Andres Iniesta/Spain|Johan Cruyff/Netherlands
tennis: Roger Federer/Switzerland|Rafael Nadal/Spain|Novak Djokovic/Serbia|Serena Williams/America|Venus Williams/America|Andy Murray/Scotland|Maria Sharapova/Russia|Steffi Graf/Germany|Boris Becker/Germany|Bjorn Borg/Sweden|Naomi Osaka/Japan|Andre Agassi/America|Pete Sampras/America
golf: Tiger Woods/America|Jack Nicklaus/America|Rory McIlroy/Ireland|Phil Mickelson/America|Arnold Palmer/America
boxing: Muhammad Ali/America|Mike Tyson/America|Joe Frazier/America|Lennox Lewis/England|Floyd Mayweather/America
baseball: Babe Ruth/America|Derek Jeter/America|Jackie Robinson/America|Willie Mays/America|Hank Aaron/America|Shohei Ohtani/Japan|Ichiro Suzuki/Japan
hockey: Wayne Gretzky/Canada|Sidney Crosby/Canada|Mario Lemieux/Canada|Bobby Orr/Canada|Alex Ovechkin/Russia
chess: Garry Kasparov/Russia|Magnus Carlsen/Norway|Bobby Fischer/America|Anatoly Karpov/Russia|Viswanathan Anand/India|Judit Polgar/Hungary
cricket: Sachin Tendulkar/India|Virat Kohli/India|Ricky Ponting/Australia|Shane Warne/Australia|Don Bradman/Australia|Imran Khan/Pakistan|Kapil Dev/India]]

data.instruments = lines [[
guitar: Jimi Hendrix/America|Eric Clapton/England|Jimmy Page/England|Keith Richards/England|Brian May/England|Carlos Santana/Mexico|Angus Young/Australia|Django Reinhardt/Belgium|Andres Segovia/Spain
piano: Glenn Gould/Canada|Herbie Hancock/America|Elton John/England|Frederic Chopin/Poland|Lang Lang/China|Martha Argerich/Argentina|Franz Liszt/Hungary|Thelonious Monk/America|Clara Schumann/Germany|Duke Ellington/America
violin: Niccolo Paganini/Italy|Itzhak Perlman/Israel|Joshua Bell/America|Anne Mutter/Germany|Hilary Hahn/America|David Oistrakh/Russia|Yehudi Menuhin/America
trumpet: Louis Armstrong/America|Miles Davis/America|Dizzy Gillespie/America|Chet Baker/America|Wynton Marsalis/America
cello: Pablo Casals/Spain|Yo Yo Ma/America
drums: Ringo Starr/England|Keith Moon/England|John Bonham/England|Buddy Rich/America|Phil Collins/England|Charlie Watts/England
saxophone: John Coltrane/America|Charlie Parker/America|Stan Getz/America|Sonny Rollins/America]]

data.professions = lines [[
physicist: Albert Einstein/Germany|Isaac Newton/England|Marie Curie/Poland|Niels Bohr/Denmark|Max Planck/Germany|Richard Feynman/America|Enrico Fermi/Italy|Stephen Hawking/England|Werner Heisenberg/Germany|Paul Dirac/England
painter: Vincent van Gogh/Netherlands|Pablo Picasso/Spain|Claude Monet/France|Frida Kahlo/Mexico|Salvador Dali/Spain|Henri Matisse/France|Edvard Munch/Norway|Gustav Klimt/Austria|Paul Cezanne/France|Diego Rivera/Mexico|Andy Warhol/America
writer: Leo Tolstoy/Russia|Jane Austen/England|Charles Dickens/England|Mark Twain/America|Victor Hugo/France|Ernest Hemingway/America|Virginia Woolf/England|James Joyce/Ireland|Umberto Eco/Italy|Agatha Christie/England|George Orwell/England
actor: Tom Hanks/America|Brad Pitt/America|Meryl Streep/America|Charlie Chaplin/England|Sean Connery/Scotland|Julia Roberts/America|Morgan Freeman/America|Al Pacino/America|Robin Williams/America|Johnny Depp/America
philosopher: Immanuel Kant/Germany|Friedrich Nietzsche/Germany|Rene Descartes/France|David Hume/Scotland|John Locke/England|Karl Marx/Germany|Bertrand Russell/England
director: Steven Spielberg/America|Alfred Hitchcock/England|Stanley Kubrick/America|Martin Scorsese/America|Federico Fellini/Italy|Akira Kurosawa/Japan|Ingmar Bergman/Sweden|Quentin Tarantino/America]]

data.companies = lines [[
cars: Toyota/Japan|Honda/Japan|Nissan/Japan|Ferrari/Italy|Fiat/Italy|Volvo/Sweden|Renault/France|Peugeot/France|Volkswagen/Germany|Porsche/Germany|Audi/Germany|Tesla/America|Ford Motor/America|Chevrolet/America|Hyundai/Korea|Kia Motors/Korea|Jaguar/England|Bentley/England|Skoda/Czechia
phones: Nokia/Finland|Samsung/Korea|Huawei/China|Xiaomi/China|Ericsson/Sweden
watches: Rolex/Switzerland|Omega/Switzerland|Swatch/Switzerland|Seiko/Japan|Casio/Japan|Tissot/Switzerland
shoes: Nike/America|Adidas/Germany|Puma/Germany|Reebok/America
chips: Intel/America|Nvidia/America|Qualcomm/America
cameras: Nikon/Japan|Leica/Germany|Kodak/America|Polaroid/America
beer: Heineken/Netherlands|Guinness/Ireland|Carlsberg/Denmark|Budweiser/America
planes: Boeing/America|Embraer/Brazil|Cessna/America
toys: Lego/Denmark|Mattel/America|Hasbro/America
games: Nintendo/Japan|Sega/Japan|Atari/America
software: Microsoft/America|Oracle/America|Adobe/America
chocolate: Lindt/Switzerland|Cadbury/England|Hershey/America|Nestle/Switzerland]]

return data
