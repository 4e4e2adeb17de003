// One event and its reply, with Spring for Apache Kafka and nothing of guideway.
//
//   java -cp "SPRING_LIBS/*:KAFKA_HOME/libs/*" SpringClient.java BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]
//
// Prints the reply, one line of JSON. Exit code 0: completed; 1: failed, or the event was not taken; 2: no reply in time.
// KAFKA_CLIENT_CONFIG names a client.properties with the login, where the cluster wants one.
import java.io.FileInputStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.regex.Pattern;
import org.apache.kafka.clients.CommonClientConfigs;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.KafkaReplyTimeoutException;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;

public class SpringClient {
    public static void main(String[] args) throws Exception {
        var address = Pattern.compile("/([a-z0-9-]+)/([a-z0-9-]+)").matcher(args.length > 1 ? args[1] : "");
        if (args.length < 3 || args.length > 4 || !address.matches()) {
            System.err.println("usage: SpringClient.java BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]");
            System.exit(64);
        }
        String way = "gw." + address.group(1) + "." + address.group(2) + ".%s.v1";
        String events = way.formatted("in"), replies = way.formatted("out");
        String seconds = args.length == 4 ? args[3] : "60";

        Map<String, Object> login = new HashMap<>();
        if (System.getenv("KAFKA_CLIENT_CONFIG") != null) {
            var file = new Properties();
            try (var in = new FileInputStream(System.getenv("KAFKA_CLIENT_CONFIG"))) { file.load(in); }
            file.forEach((name, value) -> login.put((String) name, value));
        }
        login.put(CommonClientConfigs.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        login.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, "false");
        Map<String, Object> reading = new HashMap<>(login);
        // A group of its own for each run, below the namespace's name, where a team may have groups.
        reading.put(ConsumerConfig.GROUP_ID_CONFIG, address.group(1) + ".spring-" + System.nanoTime());
        reading.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        var consumers = new DefaultKafkaConsumerFactory<String, byte[]>(
            reading, new StringDeserializer(), new ByteArrayDeserializer());
        var producers = new DefaultKafkaProducerFactory<String, byte[]>(
            login, new StringSerializer(), new ByteArraySerializer());
        var template = new ReplyingKafkaTemplate<String, byte[], byte[]>(
            producers, new KafkaMessageListenerContainer<>(consumers, new ContainerProperties(replies)));
        template.setSharedReplyTopic(true);
        template.setDefaultReplyTimeout(Duration.ofMillis((long) (1000 * Double.parseDouble(seconds))));
        int code = 1;
        try (var looking = consumers.createConsumer()) {
            // A topic that does not exist would be created by some clusters, or waited for.
            if (looking.partitionsFor(replies, Duration.ofSeconds(10)).isEmpty()) {
                throw new KafkaException("there is no topic " + replies);
            }
            template.start();
            template.waitForAssignment(Duration.ofSeconds(20));
            code = ask(template, events, args[2], seconds);
        } catch (KafkaException refused) {
            System.err.println("not sent: " + refused.getMessage());
        }
        template.stop();
        producers.destroy();
        System.exit(code);
    }

    private static int ask(
            ReplyingKafkaTemplate<String, byte[], byte[]> template, String events, String text, String seconds)
            throws InterruptedException {
        try {
            var event = new ProducerRecord<String, byte[]>(events, text.getBytes(StandardCharsets.UTF_8));
            ConsumerRecord<String, byte[]> reply = template.sendAndReceive(event).get();
            System.out.println(new String(reply.value(), StandardCharsets.UTF_8));
            var status = new String(reply.headers().lastHeader("guideway_status").value(), StandardCharsets.UTF_8);
            return status.equals("completed") ? 0 : 1;
        } catch (ExecutionException failed) {
            if (failed.getCause() instanceof KafkaReplyTimeoutException) {
                System.err.println("no reply within " + seconds + " s");
                return 2;
            }
            System.err.println("not sent: " + failed.getCause().getMessage());
            return 1;
        }
    }
}
