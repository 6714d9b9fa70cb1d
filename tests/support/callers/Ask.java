import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Posts a body to a URL with Java's own client and its defaults: by length, then in chunks. */
class Ask {
    public static void main(String[] arguments) throws Exception {
        var body = arguments[1].getBytes();
        var inChunks = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
        for (var publisher : new BodyPublisher[] {BodyPublishers.ofByteArray(body), inChunks}) {
            var client = HttpClient.newHttpClient(); // the first request of each offers h2c
            var request = HttpRequest.newBuilder(URI.create(arguments[0])).POST(publisher).build();
            var answer = client.send(request, BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
