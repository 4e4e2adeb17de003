// One event and its reply, with kafkajs.
//
//   node client.mjs BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]
//
// Prints the reply, one line of JSON. Exit code 0: completed; 1: failed, or the event was not taken; 2: no reply in time.
import { randomBytes } from "node:crypto";
import { Kafka, Partitioners, logLevel } from "kafkajs";

const [bootstrap, address, text, timeout = "60"] = process.argv.slice(2);
const match = /^\/([a-z0-9-]+)\/([a-z0-9-]+)$/.exec(address ?? "");
if (!match || !text) {
  console.error("usage: client.mjs BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]");
  process.exit(64);
}
const [, namespace, endpoint] = match;
const events = `gw.${namespace}.${endpoint}.in.v1`;
const replies = `gw.${namespace}.${endpoint}.out.v1`;
const correlation = randomBytes(16);

const kafka = new Kafka({ brokers: bootstrap.split(","), logLevel: logLevel.NOTHING, retry: { retries: 2 } });
const admin = kafka.admin();
const producer = kafka.producer({
  idempotent: true,
  allowAutoTopicCreation: false,
  createPartitioner: Partitioners.DefaultPartitioner,
  retry: { retries: 5 },
});
// Reads committed records only, which is kafkajs's default. kafkajs reads in a group or not at all: one for this run.
const group = `guideway-kafkajs-${correlation.toString("hex")}`;
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
  console.error(`not sent: ${error.message}`);
}
await Promise.allSettled([consumer.disconnect(), producer.disconnect()]);
await admin.deleteGroups([group]).catch(() => {});
await admin.disconnect();
process.exit(exitCode);
