package io.grpc.testing.integration;

import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Plays interop cases with the official client, many in one virtual machine, where its own main()
 * plays one; hence the package, and the reflection. A name in camel case is one of the client's
 * tests beside the cases, by its method.
 *
 * <pre>java Cases CASE,CASE,... --server_port=PORT [other flags of TestServiceClient]</pre>
 *
 * Prints one line of JSON for each case: {"case", "fault"}, where fault is null or says what is
 * wrong.
 */
public final class Cases {
  private Cases() {}

  public static void main(String[] args) throws ReflectiveOperationException {
    String[] flags = Arrays.copyOfRange(args, 1, args.length);
    for (String name : args[0].split(",")) {
      String fault = play(name, flags);
      System.out.println(
          "{\"case\": \"" + name + "\", \"fault\": " + (fault == null ? null : quoted(fault)) + "}");
    }
    System.exit(0); // threads of a failed case must not keep it alive
  }

  private static String play(String name, String[] flags) throws ReflectiveOperationException {
    List<String> arguments = new ArrayList<>(Arrays.asList(flags));
    if (name.equals(name.toLowerCase())) {
      arguments.add("--test_case=" + name);
    }
    TestServiceClient client = new TestServiceClient();
    try {
      client.parseArgs(arguments.toArray(new String[0]));
      client.setUp();
      try {
        if (name.equals(name.toLowerCase())) {
          invoke(client, "run");
        } else {
          Field tester = TestServiceClient.class.getDeclaredField("tester");
          tester.setAccessible(true);
          AbstractInteropTest.class.getMethod(name).invoke(tester.get(client));
        }
      } finally {
        invoke(client, "tearDown");
      }
      return null;
    } catch (InvocationTargetException error) {
      return causes(error.getCause());
    } catch (Exception | AssertionError error) {
      return causes(error);
    }
  }

  private static void invoke(TestServiceClient client, String name)
      throws ReflectiveOperationException {
    Method method = TestServiceClient.class.getDeclaredMethod(name);
    method.setAccessible(true);
    method.invoke(client);
  }

  private static String causes(Throwable error) {
    StringBuilder text = new StringBuilder();
    for (Throwable each = error; each != null; each = each.getCause()) {
      text.append(each).append("; ");
    }
    for (StackTraceElement element : error.getStackTrace()) {
      if (element.getClassName().endsWith("AbstractInteropTest")) {
        text.append("at ").append(element).append("; ");
      }
    }
    return text.toString();
  }

  private static String quoted(String text) {
    StringBuilder json = new StringBuilder("\"");
    for (char letter : text.toCharArray()) {
      boolean plain = letter >= ' ' && letter < 127 && letter != '"' && letter != '\\';
      json.append(plain ? String.valueOf(letter) : String.format("\\u%04x", (int) letter));
    }
    return json.append('"').toString();
  }
}
