// One event and its reply, with kafkajs.
//
//   node client.mjs BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]
//
// Prints the reply, one line of JSON. Exit code 0: completed; 1: failed, or the event was not taken; 2: no reply in time.
// KAFKA_CLIENT_CONFIG names a client.properties with the login, where the cluster wants one (librdkafka's words).
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { Kafka, Partitioners, logLevel } from "kafkajs";

const [bootstrap, address, text, timeout = "60"] = process.argv.slice(2);
const match = /^\/([a-z0-9-]+)\/([a-z0-9-]+)$/.exec(address ?? "");
if (!match || !text || !(Number(timeout) > 0)) {
  console.error("usage: client.mjs BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]");
  process.exit(64);
}
const [, namespace, endpoint] = match;
const events = `gw.${namespace}.${endpoint}.in.v1`;
const replies = `gw.${namespace}.${endpoint}.out.v1`;
const correlation = randomBytes(16);

function login(file) {
  if (!file) return {};
  const lines = readFileSync(file, "utf8").split("\n").filter((line) => /^\s*[^#!=][^=]*=/.test(line));
  const said = Object.fromEntries(lines.map((line) => [line.split("=", 1)[0].trim(), line.slice(line.indexOf("=") + 1).trim()]));
  const protocol = said["security.protocol"] ?? "PLAINTEXT";
  const pem = (name) => (said[name] ? readFileSync(said[name]) : undefined);
  return {
    ssl: protocol.endsWith("SSL") && {
      ca: said["ssl.ca.location"] && [pem("ssl.ca.location")],
      cert: pem("ssl.certificate.location"),
      key: pem("ssl.key.location"),
    },
    sasl: protocol.startsWith("SASL") ? {
      mechanism: said["sasl.mechanism"].toLowerCase(),
      username: said["sasl.username"],
      password: said["sasl.password"],
    } : undefined,
  };
}

const kafka = new Kafka({
  brokers: bootstrap.split(","),
  ...login(process.env.KAFKA_CLIENT_CONFIG),
  logLevel: logLevel.NOTHING,
  retry: { retries: 2 },
});
const admin = kafka.admin();
const producer = kafka.producer({
  idempotent: true,
  allowAutoTopicCreation: false,
  createPartitioner: Partitioners.DefaultPartitioner,
  retry: { retries: 5 },
});
// Reads committed records only, which is kafkajs's default. kafkajs reads in a group or not at all: one for this run,
// below the namespace's name, where a team may have groups.
const group = `${namespace}.kafkajs-${correlation.toString("hex")}`;
const consumer = kafka.consumer({ groupId: group, readUncommitted: false, allowAutoTopicCreation: false });

let exitCode = 1;
try {
  await admin.connect();
  // Where the reply topic ends is asked before the event is sent: the reply lies behind it.
  const ends = await admin.fetchTopicOffsets(replies);
  await consumer.connect();
  await consumer.subscribe({ topics: [replies] });
  let found;
  const answered = new Promise((resolve) => (found = resolve));
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ message }) => {
      if (message.headers.correlation_id?.equals?.(correlation)) found(message);
    },
  });
  for (const { partition, offset } of ends) consumer.seek({ topic: replies, partition, offset });

  await producer.connect();
  const headers = { correlation_id: correlation, reply_to: replies, "content-type": "text/plain" };
  await producer.send({ topic: events, acks: -1, messages: [{ value: text, headers }] });

  const late = new Promise((resolve) => setTimeout(resolve, Number(timeout) * 1000));
  const reply = await Promise.race([answered, late]);
  if (reply) {
    console.log(reply.value.toString());
    exitCode = reply.headers.guideway_status.toString() === "completed" ? 0 : 1;
  } else {
    console.error(`no reply within ${timeout} s`);
    exitCode = 2;
  }
} catch (error) {
  const about = (error.cause ?? error).type === "UNKNOWN_TOPIC_OR_PARTITION" ? `there is no endpoint ${address} (${events})` : error.message;
  console.error(`not sent: ${about}`);
}
await Promise.allSettled([consumer.disconnect(), producer.disconnect()]);
await admin.deleteGroups([group]).catch(() => {});
await admin.disconnect();
process.exit(exitCode);
