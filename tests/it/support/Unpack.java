import java.io.BufferedInputStream;
import java.io.FileInputStream;
import java.io.FilterInputStream;
import java.io.InputStream;
import java.util.zip.GZIPInputStream;

/** Prints what a `.csv.gz` holds, read as from a socket that has nothing more at the moment. */
public class Unpack {
    public static void main(String[] arguments) throws Exception {
        InputStream silent = new FilterInputStream(new BufferedInputStream(new FileInputStream(arguments[0]))) {
            @Override
            public int available() {
                return 0;
            }
        };
        try (GZIPInputStream rows = new GZIPInputStream(silent)) {
            rows.transferTo(System.out);
        }
        System.out.flush();
    }
}
